"""What the attacker may do: a norm ball of radius eps in pixel space, inside the box [0, 1].

Each norm is one row of functions. Elsewhere, too, what differs by norm is looked up in a table, not branched on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from robustcls.core.errors import InputError, unknown

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from robustcls.core.draws import Draws

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)
# An example this far beyond eps still counts as inside the ball: what float32 arithmetic may add.
BALL = 1e-6


def parse_eps(text: str | float) -> float:
    """The radius as a number, from `8/255`, `0.031` or a number. Raises InputError unless finite and not negative."""
    try:
        eps = float(Fraction(text.strip())) if isinstance(text, str) else float(text)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        eps = math.nan
    if not 0 <= eps < math.inf:
        raise InputError(
            f"eps {text!r} is not a radius: give a fraction such as 8/255 or a decimal such as 0.031, not negative"
        )
    return eps


def _grey_levels(value: float) -> str:
    """What a radius that is too large may have been meant as: `: did you mean 8/255?`."""
    return f": did you mean {value:.0f}/255?" if value == round(value) and 1 <= value <= 255 else ""


@dataclass(frozen=True)
class ThreatModel:
    """All images within `eps` (pixel values, [0, 1] scale) of the clean one in `norm`, and inside [0, 1].

    In l0 `eps` is the number of values that may change, each of C x H x W one, as sigma-zero (Cina et al. 2024,
    arXiv:2402.01879) and AttackBench count: a pixel whose three colours change counts three. Raises InputError for a radius
    of linf beyond 1, which allows every image, as one in grey levels would, and for a fraction in l0.
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.norm == "linf" and self.eps > 1:
            hint = _grey_levels(self.eps) or ": give a fraction such as 8/255"
            raise InputError(
                f"linf eps {self.eps:g} is too large: pixels are in [0, 1], and 1 allows every image{hint}"
            )
        if self.norm == "l0" and self.eps != round(self.eps):
            raise InputError(
                f"l0 eps {self.eps:g} is not a whole number: l0 counts the values that may change: give one such as `eps=20`"
            )

    @classmethod
    def parse(cls, text: str) -> "ThreatModel":
        """From `linf:8/255`. Raises InputError."""
        norm, colon, eps = text.partition(":")
        if not colon:
            raise InputError(f"threat model {text!r} has no radius: write it as linf:8/255")
        return cls(norm, parse_eps(eps))  # type: ignore[arg-type]

    @classmethod
    def chosen(cls, norm: str | None, eps: str | float | None, known: Mapping[str, Any]) -> "ThreatModel":
        """What was asked for, else what is known (`norm`, `eps`); a radius holds for its own norm alone. Raises InputError."""
        ours = norm or known["norm"]
        if eps is None and ours != known["norm"]:
            raise InputError(f"norm {ours} has no radius here: give `eps`, such as `eps=0.5`")
        return cls(ours, parse_eps(known["eps"] if eps is None else eps))  # type: ignore[arg-type]

    @property
    def eps_text(self) -> str:
        """The radius as people write it: `8/255` where it is a whole number of grey levels below 128, else a decimal."""
        levels = self.eps * 255
        if self.norm == "linf" and 0 < round(levels) < 128 and abs(levels - round(levels)) < 1e-6:
            return f"{round(levels)}/255"
        return f"{self.eps:.6g}"

    def at(self, eps: float) -> "ThreatModel":
        """The ball of another radius in the same norm; of linf at most 1, which allows every image, of l0 the whole number
        below."""
        return ThreatModel(self.norm, {"linf": min(eps, 1.0), "l0": math.floor(eps)}.get(self.norm, eps))

    def check_eps(self, shape: Sequence[int]) -> None:
        """Raises InputError where no two images are as far apart as eps, as in grey levels. shape: C,H,W of an image."""
        whole = self._widest(shape)
        if self.eps > whole * (1 + BALL):
            size = " x ".join(map(str, shape))
            hint = _grey_levels(self.eps) or ": give a smaller radius"
            raise InputError(
                f"{self.norm} eps {self.eps:g} is too large: pixels are in [0, 1], so that images of {size} are at most "
                f"{whole:g} apart{hint}"
            )

    def reaches_grey(self, shape: Sequence[int]) -> bool:
        """Whether every image may become uniform grey, so that no model can be robust. shape: C,H,W of an image."""
        return self.eps >= self._widest(shape, 0.5)

    def _widest(self, shape: Sequence[int], change: float = 1.0) -> float:
        """How far apart two images can be, of which each value differs by this much at most."""
        import torch

        return _NORMS[self.norm].size(torch.full((1, *shape), change)).item()

    def default_step(self, steps: int | None = None) -> float:
        """The step size, in pixel values, of an attack that is given none: 2.5 eps / steps (Madry et al. 2017); eps for
        an attack of a single step, which has no option `steps`."""
        return self.eps if steps is None else 2.5 * self.eps / steps

    def check_options(self, attack: str, options: Mapping[str, Any]) -> None:
        """Raises InputError for a step of linf that is larger than the whole range of pixels. attack: its spec."""
        step_size = options.get("step_size")
        if self.norm == "linf" and step_size is not None and step_size > 1:
            hint = _grey_levels(step_size) or ": give a fraction such as 2/255"
            raise InputError(f"{attack}: step_size {step_size:g} is too large: pixels are in [0, 1]{hint}")

    def check_known(self, attack: str, knows_l0: bool) -> None:
        """Raises InputError in l0 for an attack that does not know it."""
        if self.norm == "l0" and not knows_l0:
            raise InputError(
                f'{attack} does not know l0: take `attacks="sigma_zero"`, or another norm, such as `norm=linf`'
            )

    @property
    def is_whole_box(self) -> bool:
        """Whether every image in [0, 1] lies in the ball, whatever the clean one."""
        return self.norm == "linf" and self.eps >= 1

    def check_whole_box(self, attack: str) -> None:
        """Raises InputError unless every image is allowed, as an attack that leaves every small ball needs it."""
        if not self.is_whole_box:
            raise InputError(f"{attack} leaves every small ball: judge it with `norm=linf` and `eps=1`")

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps_text}"

    def project(self, x_adv: "Tensor", x: "Tensor", radius: "Tensor | None" = None) -> "Tensor":
        """Onto the ball around x, of radius eps unless each sample has its own (N), then onto the box.

        Clipping to the box moves every pixel towards x, which lies in the box, so the result is inside both. For linf, l1
        and l0 it is the nearest such point; for l2 it is feasible, not always nearest. x, x_adv: N,C,H,W.
        """
        eps = self.eps if radius is None else _per_sample(radius, x)
        return (x + _NORMS[self.norm].clip(x_adv - x, eps, x)).clamp(0, 1)

    def between(self, x: "Tensor", x_adv: "Tensor", share: "Tensor") -> "Tensor":
        """The point of which the distance from x is this share (N, in [0, 1]) of x_adv's: on the way there; in l0 with the
        largest of the changes alone, rounded down in number."""
        if self.norm == "l0":
            return self.project(x_adv, x, (share * self.distance(x_adv, x)).floor())
        return x.lerp(x_adv, _per_sample(share, x)).clamp(0, 1)

    def random_start(self, x: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """A point drawn uniformly from the ball around each x, clipped to the box; in l0 eps values drawn at random, most of
        which go to a wall."""
        from robustcls.core.draws import Draws  # which imports torch

        norm = _NORMS[self.norm]
        return (x + norm.clip(norm.uniform(x, Draws(x, generator)) * self.eps, self.eps, x)).clamp(0, 1)

    def steepest(self, grad: "Tensor") -> "Tensor":
        """The direction of norm 1 along which a loss with this gradient rises fastest; 0 where the gradient is 0.

        Entries that are not finite count as 0. linf: the sign. l2: the gradient over its length. l1: the sign on the
        largest 1% of the coordinates, divided by their number, since the exact maximiser moves one pixel a step (SLIDE,
        Tramer and Boneh 2019, arXiv:1904.13000).
        """
        return _NORMS[self.norm].steepest(grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))

    def distance(self, x_adv: "Tensor", x: "Tensor") -> "Tensor":
        """The norm of x_adv - x for each sample: N."""
        return _NORMS[self.norm].size(x_adv - x)

    def dual(self, grad: "Tensor") -> "Tensor":
        """The dual norm of a gradient for each sample, by which a linear loss rises at most within the ball of radius 1: N."""
        if self.norm == "l0":
            _has_none("dual")()
        return _NORMS[_DUAL[self.norm]].size(grad)


class _NormFunctions(NamedTuple):
    size: Callable[["Tensor"], "Tensor"]  # delta -> N
    clip: Callable[["Tensor", Any, "Tensor"], "Tensor"]  # delta, eps (or N,1,1,1), x -> delta inside the ball around x
    uniform: Callable[["Tensor", "Draws"], "Tensor"]  # like x -> a point in the unit ball
    steepest: Callable[["Tensor"], "Tensor"]


def _per_sample(values: "Tensor", like: "Tensor") -> "Tensor":
    return values.view(-1, *[1] * (like.ndim - 1))


def _has_none(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise InputError(f'l0 has no {what}: take `attacks="sigma_zero"`, or another norm, such as `norm=linf`')

    return refuse


def _linf_size(delta: "Tensor") -> "Tensor":
    return delta.flatten(1).abs().amax(1)


def _linf_uniform(x: "Tensor", draws: "Draws") -> "Tensor":
    return draws.uniform(*x.shape[1:], low=-1, high=1)


def _l2_size(delta: "Tensor") -> "Tensor":
    # Summed in double: over a large image, float32 is off by more than the tolerance of the ball. So in l1.
    return delta.flatten(1).double().norm(dim=1).to(delta.dtype)


def _l2_clip(delta: "Tensor", eps: "float | Tensor", x: "Tensor") -> "Tensor":
    eps = eps * (1 - 2e-7)  # what rounding may add
    return delta * (eps / _per_sample(_l2_size(delta).clamp_min(1e-30), delta)).clamp_max(1)


def _l2_uniform(x: "Tensor", draws: "Draws") -> "Tensor":
    direction = _l2_steepest(draws.normal(*x.shape[1:]))
    radius = draws.uniform() ** (1 / x[0].numel())
    return direction * _per_sample(radius, x)


def _l2_steepest(grad: "Tensor") -> "Tensor":
    # Dividing by the largest entry first keeps tiny gradients from vanishing in the squares.
    grad = grad / _per_sample(_linf_size(grad).clamp_min(1e-30), grad)
    return grad / _per_sample(_l2_size(grad).clamp_min(1e-30), grad)


def _l1_size(delta: "Tensor") -> "Tensor":
    return delta.flatten(1).abs().double().sum(1).to(delta.dtype)


def _l1_clip(delta: "Tensor", eps: "float | Tensor", x: "Tensor") -> "Tensor":
    """Euclidean projection onto ball and box at once (Croce and Hein 2021, arXiv:2103.01208).

    Every size falls by one threshold and then to its room, the way to the wall of the box. How much that leaves is
    piecewise linear in the threshold: Newton's method finds it, with bisection where a step leaves the bracket.
    """
    # What rounding x + delta to float32 may add, pixel by pixel.
    rounding = 2**-25 * delta.shape[1:].numel()
    if isinstance(eps, (float, int)):
        eps = eps - min(rounding, 0.001 * eps)
    else:
        eps = eps.double().flatten(1)
        eps = eps - (0.001 * eps).clamp_max(rounding)
    size, room = delta.flatten(1).abs().double(), (1 - x).where(delta > 0, x).flatten(1).double()
    threshold = low = size.new_zeros(len(size), 1)
    high = size.amax(1, keepdim=True)
    for _ in range(100):  # ten do, as a rule
        rest = (size - threshold).clamp_min_(0)
        falling = ((rest > 0) & (rest < room)).sum(1, keepdim=True)
        excess = rest.minimum(room).sum(1, keepdim=True) - eps
        inside = excess <= 1e-10 * eps
        low, high = low.where(inside, threshold), threshold.where(inside, high)
        wrong = (excess.abs() > 1e-10 * eps) & (high > 0)
        if not wrong.any():
            break
        newton = threshold + excess / falling
        newton = newton.where((low < newton) & (newton < high), (low + high) / 2)
        threshold = newton.where(wrong, threshold)
    return (delta.flatten(1).sign() * (size - high).clamp_min_(0).minimum(room)).to(delta.dtype).view_as(delta)


def _l1_uniform(x: "Tensor", draws: "Draws") -> "Tensor":
    sizes = draws.exponential(x[0].numel() + 1)  # one more than pixels: the slack
    sign = draws.uniform(*x.shape[1:], low=-1, high=1).sign()
    return sign * (sizes / sizes.sum(1, keepdim=True))[:, :-1].view_as(x)


def _l1_steepest(grad: "Tensor") -> "Tensor":
    flat = grad.flatten(1)
    top = flat.abs().topk(max(1, flat.shape[1] // 100), dim=1).indices
    step = flat.new_zeros(flat.shape).scatter(1, top, flat.gather(1, top).sign())
    return (step / step.abs().sum(1, keepdim=True).clamp_min(1)).view_as(grad)


def _l0_size(delta: "Tensor") -> "Tensor":
    return (delta != 0).flatten(1).sum(1).to(delta.dtype)


def _l0_clip(delta: "Tensor", eps: "float | Tensor", x: "Tensor") -> "Tensor":
    """The Euclidean projection onto ball and box: the values that gain most by changing keep their change, as far as the box
    lets them. Of equal gains those of the first places."""
    inside = (x + delta).clamp(0, 1) - x
    gain = (inside * (2 * delta - inside)).flatten(1)  # delta^2, less what the box leaves of it
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    eps = eps if isinstance(eps, (float, int)) else eps.flatten(1)
    return delta.masked_fill((rank >= eps).view_as(delta), 0)


_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
_NORMS: dict[str, _NormFunctions] = {
    "linf": _NormFunctions(
        size=_linf_size,
        clip=lambda delta, eps, x: delta.clamp(-eps, eps),
        uniform=_linf_uniform,
        steepest=lambda grad: grad.sign(),
    ),
    "l2": _NormFunctions(_l2_size, _l2_clip, _l2_uniform, _l2_steepest),
    "l1": _NormFunctions(_l1_size, _l1_clip, _l1_uniform, _l1_steepest),
    "l0": _NormFunctions(_l0_size, _l0_clip, _linf_uniform, _has_none("steepest direction")),
}
