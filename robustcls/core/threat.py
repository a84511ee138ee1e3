"""The threat model: a norm ball of radius eps in pixel space, intersected with the box [0, 1].

Operations that depend on the norm are looked up in a table (core/norms.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

from robustcls.core.errors import InputError, unknown
from robustcls.core.mask import Mask
from robustcls.core.norms import BY_NORM, DUAL, has_none, per_sample

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from robustcls.core.traits import Traits

Norm = Literal["linf", "l2", "l1", "l0"]
NORMS: tuple[Norm, ...] = get_args(Norm)
# Tolerance for float32 rounding: an example this far beyond eps still counts as inside the ball.
BALL = 1e-6


def parse_eps(text: str | float) -> float:
    """Return the radius given as `8/255`, `0.031` or a number. Raises InputError unless it is finite and not negative."""
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
    """Return a hint for a radius that was probably given in grey levels, `: did you mean 8/255?`, or ""."""
    return f": did you mean {value:.0f}/255?" if value == round(value) and 1 <= value <= 255 else ""


@dataclass(frozen=True)
class ThreatModel:
    """All images within distance `eps` of the clean image in `norm`, on the pixel scale [0, 1], and inside [0, 1].

    For l0, `eps` is the number of values that may change, out of C x H x W, as in sigma-zero (Cina et al. 2024,
    arXiv:2402.01879) and AttackBench: a pixel that changes in three channels counts three. Raises InputError for a radius of
    linf above 1, which would allow every image (and is probably given in grey levels), and for a fraction in l0.

    mask: the pixels that may change, a bool tensor H,W; None for all. eight_bit: examples are rounded to 8 bits, inside the
    ball, before they count.
    """

    norm: Norm
    eps: float
    mask: Mask | None = None
    eight_bit: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        object.__setattr__(self, "eps", parse_eps(self.eps))
        if self.mask is not None:
            object.__setattr__(self, "mask", Mask.of(self.mask))
        if self.norm == "linf" and self.eps > 1:
            hint = _grey_levels(self.eps) or ": give a fraction such as 8/255"
            raise InputError(
                f"linf eps {self.eps:g} is too large: pixels are in [0, 1], and 1 allows every image{hint}"
            )
        if self.norm == "l0" and self.eps != round(self.eps):
            raise InputError(
                f"l0 eps {self.eps:g} is not a whole number: l0 counts the values that may change: give one such as 20"
            )

    @classmethod
    def parse(cls, text: str) -> "ThreatModel":
        """Return the threat model of a text such as `linf:8/255`. Raises InputError."""
        norm, colon, eps = text.partition(":")
        if not colon:
            raise InputError(f"threat model {text!r} has no radius: write it as linf:8/255")
        return cls(norm, parse_eps(eps))  # type: ignore[arg-type]

    @classmethod
    def chosen(cls, norm: str | None, eps: str | float | None, known: Mapping[str, Any]) -> "ThreatModel":
        """Return the given norm and eps, completed from `known` (keys `norm`, `eps`).

        A known radius is used only with its own norm. Raises InputError if the radius is missing.
        """
        chosen = norm or known["norm"]
        if eps is None and chosen != known["norm"]:
            raise InputError(
                f"norm {chosen} has no radius here: give `eps`, such as `eps={20 if chosen == 'l0' else 0.5}`"
            )
        return cls(chosen, parse_eps(known["eps"] if eps is None else eps))  # type: ignore[arg-type]

    @property
    def eps_text(self) -> str:
        """The radius as text: `8/255` for a whole number of grey levels below 128 in linf, otherwise a decimal."""
        levels = self.eps * 255
        if self.norm == "linf" and 0 < round(levels) < 128 and abs(levels - round(levels)) < 1e-6:
            return f"{round(levels)}/255"
        return f"{self.eps:.6g}"

    def at(self, eps: float) -> "ThreatModel":
        """Return the threat model with another radius. For linf it is at most 1, which allows every image; for l0 it is
        rounded down.
        """
        return replace(self, eps={"linf": min(eps, 1.0), "l0": math.floor(eps)}.get(self.norm, eps))

    def check_fits(self, shape: Sequence[int]) -> None:
        """Raise InputError if eps exceeds the largest distance between two images, or if the mask has another size.

        For l0 with a mask, only images that differ inside the mask count. shape: C,H,W of an image.
        """
        if self.mask is not None:
            self.mask.check_size(shape[1:])
        whole, where = (
            self.widest(shape),
            f" in {self.mask.name}" if self.mask is not None and self.norm == "l0" else "",
        )
        if self.eps > whole * (1 + BALL):
            size = " x ".join(map(str, shape))
            hint = (self.norm != "l0" and _grey_levels(self.eps)) or ": give a smaller radius"
            raise InputError(
                f"{self.norm} eps {self.eps:g} is too large: pixels are in [0, 1], so that images of {size} are at most "
                f"{whole:g} apart{where}{hint}"
            )

    def widest(self, shape: Sequence[int]) -> float:
        """Return the largest distance between two images C,H,W; for l0, between images that differ only inside the mask."""
        return shape[0] * self.mask.pixels if self.mask is not None and self.norm == "l0" else self._widest(shape)

    def reaches_grey(self, shape: Sequence[int]) -> bool:
        """Whether every image can be turned into uniform grey, so that no model can be robust. shape: C,H,W of an image."""
        return self.eps >= self._widest(shape, 0.5)

    def _widest(self, shape: Sequence[int], change: float = 1.0) -> float:
        """Return the largest distance between two images whose values differ by at most `change`."""
        import torch

        return BY_NORM[self.norm].size(torch.full((1, *shape), change)).item()

    def default_step(self, steps: int | None = None) -> float:
        """Return the default step size in pixel values: 2.5 eps / steps (Madry et al. 2017), or eps for an attack with a single
        step, which has no option `steps`.
        """
        return self.eps if steps is None else 2.5 * self.eps / steps

    def check_options(self, attack: str, options: Mapping[str, Any]) -> None:
        """Raise InputError if a linf step size is larger than the range of pixels. attack: the spec, for the message."""
        step_size = options.get("step_size")
        if self.norm == "linf" and step_size is not None and step_size > 1:
            hint = _grey_levels(step_size) or ": give a fraction such as 2/255"
            raise InputError(f"{attack}: step_size {step_size:g} is too large: pixels are in [0, 1]{hint}")

    def unknown_to(self, traits: "Traits") -> str:
        """Return which part of this threat model an attack does not support, and what to use instead; "" for none."""
        if self.norm == "l0" and not traits.l0:
            return 'l0: take `attacks="sigma_zero"`, or another norm, such as `norm=linf`'
        if self.mask is not None and not traits.mask:
            return "a mask: take `suite=fast`, or attacks such as apgd_ce, pgd and square"
        return ""

    def check_known(self, attack: str, traits: "Traits") -> None:
        """Raise InputError if an attack does not support this threat model."""
        if what := self.unknown_to(traits):
            raise InputError(f"{attack} does not know {what}")

    @property
    def is_whole_box(self) -> bool:
        """Whether every image in [0, 1] lies in the ball around every clean image."""
        return self.norm == "linf" and self.eps >= 1 and self.mask is None

    def check_whole_box(self, attack: str) -> None:
        """Raise InputError unless every image is allowed, which an attack that leaves all small balls requires."""
        if not self.is_whole_box:
            raise InputError(f"{attack} leaves every small ball: judge it with `norm=linf` and `eps=1`")

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps_text}"

    def project(self, x_adv: "Tensor", x: "Tensor", radius: "Tensor | None" = None) -> "Tensor":
        """Project x_adv onto the ball around x, then onto the box. radius: one radius per sample, N, in place of eps.

        Clipping to the box moves every pixel towards x, which lies in the box, so the result is inside both. For linf, l1
        and l0 it is the nearest such point; for l2 it is feasible but not always the nearest. x, x_adv: N,C,H,W.
        """
        eps = self.eps if radius is None else per_sample(radius, x)
        return (x + BY_NORM[self.norm].clip(self.masked(x_adv - x), eps, x)).clamp(0, 1)

    def masked(self, delta: "Tensor") -> "Tensor":
        """Return changes or a gradient, N,C,H,W, with 0 outside the mask."""
        return delta if self.mask is None else delta.masked_fill(~self.mask.on(delta.device), 0)

    def restored(self, x_adv: "Tensor", x: "Tensor") -> "Tensor":
        """Return x_adv with the pixels of x outside the mask."""
        return x_adv if self.mask is None else x_adv.where(self.mask.on(x.device), x)

    def keeps_mask(self, x_adv: "Tensor", x: "Tensor") -> "Tensor":
        """Whether nothing changed outside the mask: N, bool."""
        return (self.restored(x_adv, x) == x_adv).flatten(1).all(1)

    def between(self, x: "Tensor", x_adv: "Tensor", share: "Tensor") -> "Tensor":
        """Return the points between x and x_adv at a share (N, in [0, 1]) of their distance.

        They lie on the straight line; for l0, only the largest changes are kept, and their number is rounded down.
        """
        if self.norm == "l0":
            return self.project(x_adv, x, (share * self.distance(x_adv, x)).floor())
        return x.lerp(x_adv, per_sample(share, x)).clamp(0, 1)

    def random_start(self, x: "Tensor", generator: "Generator | None" = None) -> "Tensor":
        """Return a point drawn uniformly from the ball around each x, clipped to the box.

        For l0, eps values are drawn at random; most of them end at 0 or 1.
        """
        from robustcls.core.draws import Draws  # imports torch

        norm = BY_NORM[self.norm]
        delta = self.masked(norm.uniform(x, Draws(x, generator)))
        return (x + norm.clip(delta * self.eps, self.eps, x)).clamp(0, 1)

    def steepest(self, grad: "Tensor") -> "Tensor":
        """Return the direction of steepest ascent with norm 1 for a gradient; 0 where the gradient is 0.

        Non-finite entries count as 0. linf: the sign. l2: the gradient divided by its norm. l1: the sign on the largest 1%
        of the coordinates, divided by their number, because the exact maximiser would change only one value per step (SLIDE,
        Tramer and Boneh 2019, arXiv:1904.13000).
        """
        return BY_NORM[self.norm].steepest(self.masked(grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)))

    def distance(self, x_adv: "Tensor", x: "Tensor") -> "Tensor":
        """Return the norm of x_adv - x for each sample: N."""
        return BY_NORM[self.norm].size(x_adv - x)

    def dual(self, grad: "Tensor") -> "Tensor":
        """Return the dual norm of a gradient: the largest increase of a linear loss inside the ball of radius 1. N."""
        if self.norm == "l0":
            has_none("dual")()
        return BY_NORM[DUAL[self.norm]].size(self.masked(grad))
