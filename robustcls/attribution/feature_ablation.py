"""Feature ablation: how far the logit falls when a superpixel is blanked."""

from typing import Literal

from torch import Tensor, nn

from robustcls.attribution._superpixels import by_superpixels


def feature_ablation(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    segments: int = 64,
    baseline: Literal["black", "mean", "blur"] = "black",
    reference: Tensor | None = None,
) -> Tensor:
    """Fall of the target's logit when one superpixel is blanked: N,H,W, each pixel with its superpixel's value.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits. Needs no gradient. reference: the images that superpixels are made
    of, such as the clean ones for adversarial x; None takes x. Raises InputError for less than two segments.
    """
    from captum.attr import FeatureAblation

    return by_superpixels(FeatureAblation(model), x, target, segments, baseline, reference)


def note(model: nn.Module, x: Tensor, *, segments: int, baseline: str) -> str:
    return f"{segments} superpixels, baseline {baseline}"
