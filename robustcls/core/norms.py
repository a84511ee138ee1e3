"""The operations that depend on the norm: size, projection, random point and direction of steepest ascent."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from robustcls.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from robustcls.core.draws import Draws


class NormFunctions(NamedTuple):
    size: Callable[["Tensor"], "Tensor"]  # delta -> N
    clip: Callable[["Tensor", Any, "Tensor"], "Tensor"]  # delta, eps (or N,1,1,1), x -> delta inside the ball around x
    uniform: Callable[["Tensor", "Draws"], "Tensor"]  # x (for its shape) -> a random point in the unit ball
    steepest: Callable[["Tensor"], "Tensor"]


def per_sample(values: "Tensor", like: "Tensor") -> "Tensor":
    return values.view(-1, *[1] * (like.ndim - 1))


def has_none(what: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise InputError(f'l0 has no {what}: take `attacks="sigma_zero"`, or another norm, such as `norm=linf`')

    return refuse


def _linf_size(delta: "Tensor") -> "Tensor":
    return delta.flatten(1).abs().amax(1)


def _linf_uniform(x: "Tensor", draws: "Draws") -> "Tensor":
    return draws.uniform(*x.shape[1:], low=-1, high=1)


def _l2_size(delta: "Tensor") -> "Tensor":
    # Summed in float64, as for l1: on large images, float32 sums are off by more than the tolerance of the ball.
    return delta.flatten(1).double().norm(dim=1).to(delta.dtype)


def _l2_clip(delta: "Tensor", eps: "float | Tensor", x: "Tensor") -> "Tensor":
    eps = eps * (1 - 2e-7)  # margin for rounding
    return delta * (eps / per_sample(_l2_size(delta).clamp_min(1e-30), delta)).clamp_max(1)


def _l2_uniform(x: "Tensor", draws: "Draws") -> "Tensor":
    direction = _l2_steepest(draws.normal(*x.shape[1:]))
    radius = draws.uniform() ** (1 / x[0].numel())
    return direction * per_sample(radius, x)


def _l2_steepest(grad: "Tensor") -> "Tensor":
    # Divide by the largest entry first, so that the squares of tiny gradients do not underflow.
    grad = grad / per_sample(_linf_size(grad).clamp_min(1e-30), grad)
    return grad / per_sample(_l2_size(grad).clamp_min(1e-30), grad)


def _l1_size(delta: "Tensor") -> "Tensor":
    return delta.flatten(1).abs().double().sum(1).to(delta.dtype)


def _l1_clip(delta: "Tensor", eps: "float | Tensor", x: "Tensor") -> "Tensor":
    """Euclidean projection onto the intersection of ball and box (Croce and Hein 2021, arXiv:2103.01208).

    The magnitude of every change is reduced by a common threshold and then limited to its room, the distance to the wall of
    the box. The remaining l1 norm is piecewise linear in the threshold, which is found by Newton's method, with bisection
    where a step leaves the bracket.
    """
    # Margin for rounding x + delta to float32 in every pixel.
    rounding = 2**-25 * delta.shape[1:].numel()
    if isinstance(eps, (float, int)):
        eps = eps - min(rounding, 0.001 * eps)
    else:
        eps = eps.double().flatten(1)
        eps = eps - (0.001 * eps).clamp_max(rounding)
    size, room = delta.flatten(1).abs().double(), (1 - x).where(delta > 0, x).flatten(1).double()
    threshold = low = size.new_zeros(len(size), 1)
    high = size.amax(1, keepdim=True)
    for _ in range(100):  # usually about ten iterations suffice
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
    sizes = draws.exponential(x[0].numel() + 1)  # one more than values: the slack variable
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
    """Euclidean projection onto ball and box: only the eps values whose change reduces the distance to the target most keep
    their change. Ties are broken by position.
    """
    inside = (x + delta).clamp(0, 1) - x
    gain = (inside * (2 * delta - inside)).flatten(1)  # reduction of the squared distance: delta^2 - (delta - inside)^2
    rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    eps = eps if isinstance(eps, (float, int)) else eps.flatten(1)
    return delta.masked_fill((rank >= eps).view_as(delta), 0)


DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
BY_NORM: dict[str, NormFunctions] = {
    "linf": NormFunctions(
        size=_linf_size,
        clip=lambda delta, eps, x: delta.clamp(-eps, eps),
        uniform=_linf_uniform,
        steepest=lambda grad: grad.sign(),
    ),
    "l2": NormFunctions(_l2_size, _l2_clip, _l2_uniform, _l2_steepest),
    "l1": NormFunctions(_l1_size, _l1_clip, _l1_uniform, _l1_steepest),
    "l0": NormFunctions(_l0_size, _l0_clip, _linf_uniform, has_none("steepest direction")),
}
