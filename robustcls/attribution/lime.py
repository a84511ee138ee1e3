"""LIME: a linear model of the logit, fitted to random subsets of superpixels."""

from typing import Literal

from torch import Tensor, nn

from robustcls.attribution._superpixels import by_superpixels
from robustcls.attribution.kernel_shap import note as note


def lime(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 500,
    segments: int = 64,
    baseline: Literal["black", "mean", "blur"] = "black",
    reference: Tensor | None = None,
) -> Tensor:
    """Weights of a ridge regression around the image (Ribeiro et al. 2016, arXiv:1602.04938): N,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits; each pixel has its superpixel's value. Neighbours are weighted as
    captum does, by the exponential of the cosine distance. Needs no gradient. samples: subsets, the same for every image.
    reference: the images that superpixels are made of, such as the clean ones for adversarial x; None takes x. Raises
    InputError for fewer samples than segments.
    """
    # Its private name is where captum's documentation of Lime says that the linear models are.
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    ridge = Lime(model, SkLearnRidge(alpha=1.0))
    return by_superpixels(ridge, x, target, segments, baseline, reference, samples=samples)
