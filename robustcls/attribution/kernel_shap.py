"""KernelSHAP: Shapley values of superpixels, estimated by a weighted linear model."""

from typing import Literal

from torch import Tensor, nn

from robustcls.attribution._superpixels import by_superpixels


def kernel_shap(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 500,
    segments: int = 64,
    baseline: Literal["black", "mean", "blur"] = "black",
    reference: Tensor | None = None,
) -> Tensor:
    """Shapley values of superpixels (Lundberg and Lee 2017, arXiv:1705.07874): N,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits; each pixel has its superpixel's value, and the values of all
    superpixels add up to logit(x) - logit(baseline). Needs no gradient. samples: subsets, the same for every image.
    reference: the images that superpixels are made of, such as the clean ones for adversarial x; None takes x. Raises
    InputError for fewer samples than segments.
    """
    from captum.attr import KernelShap

    return by_superpixels(KernelShap(model), x, target, segments, baseline, reference, samples=samples)


def note(model: nn.Module, x: Tensor, *, samples: int, segments: int, baseline: str) -> str:
    return f"{segments} superpixels, {samples} samples, baseline {baseline}"
