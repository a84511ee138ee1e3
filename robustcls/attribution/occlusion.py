"""Occlusion: how much the logit decreases when a window of the image is blanked."""

from typing import Literal

from torch import Tensor, nn

from robustcls.attribution._baselines import baseline_of
from robustcls.attribution._batches import images_per_pass
from robustcls.core.errors import InputError


def occlusion(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: Literal["black", "mean", "blur"] = "black",
) -> Tensor:
    """Decrease of the target's logit under a sliding blank window (Zeiler and Fergus 2013, arXiv:1311.2901): N,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits, averaged over the windows that cover a pixel. Needs no gradient.
    window, stride: in pixels; by default an eighth of the shorter side, and half the window. Raises InputError for a window
    that does not fit, or a stride larger than the window, which would leave pixels out.
    """
    from captum.attr import Occlusion

    side, step = _sizes(x, window, stride)
    channels = x.shape[1]
    per_pass = max(1, images_per_pass(x) // len(x))
    maps = Occlusion(model).attribute(
        x.detach(),
        (channels, side, side),
        (channels, step, step),
        baseline_of(x.detach(), baseline),
        target,
        perturbations_per_eval=per_pass,
    )
    return maps.detach()[:, 0]  # every channel of a pixel is blanked together


def note(model: nn.Module, x: Tensor, *, window: int | None, stride: int | None, baseline: str) -> str:
    side, step = _sizes(x, window, stride)
    return f"window {side}x{side}, stride {step}, baseline {baseline}"


def _sizes(x: Tensor, window: int | None, stride: int | None) -> tuple[int, int]:
    shorter = min(x.shape[2:])
    side = max(1, shorter // 8) if window is None else window
    step = max(1, side // 2) if stride is None else stride
    if not 1 <= side <= shorter or not 1 <= step <= side:
        raise InputError(
            f"occlusion: window={side}, stride={step} on images of {x.shape[2]}x{x.shape[3]}: "
            f"give a window from 1 to {shorter} and a stride from 1 to the window"
        )
    return side, step
