"""Methods that blank superpixels, neighbouring pixels of similar colour, together: feature ablation, KernelSHAP, LIME.

No method needs a gradient. x: N,C,H,W in [0, 1]; target: N. Maps N,H,W are signed, in logits; each pixel has the value of its
superpixel. samples: number of random subsets, the same for every image. reference: images from which superpixels are made, such
as the clean images for adversarial x; None uses x. All raise InputError for fewer than two segments, or fewer samples than
segments.
"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import Baseline, baseline_of
from robustcls.attribution._batches import images_per_pass, singly
from robustcls.core.errors import InputError

__all__ = ["feature_ablation", "kernel_shap", "lime"]

COMPACTNESS = 0.25  # distance in colour, in [0, 1], that weighs as much as the distance between centres of grid cells


def feature_ablation(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    segments: int = 64,
    baseline: Literal["black", "mean", "blur"] = "black",
    reference: Tensor | None = None,
) -> Tensor:
    """Decrease of the target's logit when one superpixel is blanked: N,H,W, each pixel with its superpixel's value."""
    from captum.attr import FeatureAblation

    return _by_superpixels(FeatureAblation(model), x, target, segments, baseline, reference)


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

    The values of all superpixels add up to logit(x) - logit(baseline).
    """
    from captum.attr import KernelShap

    return _by_superpixels(KernelShap(model), x, target, segments, baseline, reference, samples=samples)


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

    Neighbours are weighted as captum does, by the exponential of the cosine distance.
    """
    # A private module, but captum's documentation of Lime imports its linear models from there.
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    ridge = Lime(model, SkLearnRidge(alpha=1.0))
    return _by_superpixels(ridge, x, target, segments, baseline, reference, samples=samples)


def note(model: nn.Module, x: Tensor, *, segments: int, baseline: str, samples: int | None = None) -> str:
    drawn = "" if samples is None else f"{samples} samples, "
    return f"{segments} superpixels, {drawn}baseline {baseline}"


def _by_superpixels(
    method: Any,
    x: Tensor,
    target: Tensor,
    segments: int,
    baseline: Baseline,
    reference: Tensor | None,
    samples: int | None = None,
) -> Tensor:
    """Return the maps N,H,W of a captum method that blanks superpixels. samples: for a method that fits a model to samples."""
    if samples is not None and samples < segments:
        raise InputError(f"{samples} samples for {segments} superpixels: give at least as many samples, 500 is usual")
    options = {} if samples is None else {"n_samples": samples}
    maps = [
        method.attribute(
            image,
            baseline_of(image, baseline),
            one,
            feature_mask=segmented(origin[0], segments)[None, None].expand_as(image),
            perturbations_per_eval=images_per_pass(x),
            **options,
        ).detach()[:, 0]
        for image, one, origin in singly(x.detach(), target, x if reference is None else reference)
    ]
    return torch.cat(maps)


def segmented(image: Tensor, segments: int) -> Tensor:
    """Split an image C,H,W in [0, 1] into about `segments` superpixels: int64 H,W, numbered from 0.

    K-means over colour and position, initialised on a regular grid, as in SLIC (Achanta et al. 2012,
    doi:10.1109/TPAMI.2012.120) but without its restriction to nearby pixels. The same image gives the same segments.
    """
    from sklearn.cluster import KMeans

    height, width = image.shape[1:]
    if not 1 < segments <= height * width:
        raise InputError(
            f"{segments} superpixels of an image of {height}x{width}: give from 2 to {height * width}, 64 is usual"
        )
    rows = min(height, segments, max(1, round((segments * height / width) ** 0.5)))
    columns = min(width, round(segments / rows))
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
    colour = image.detach().cpu().double().numpy().reshape(len(image), -1).T
    points = np.hstack([colour, place * (COMPACTNESS / (height * width / segments) ** 0.5)])
    centres = [
        int((row + 0.5) * height / rows) * width + int((column + 0.5) * width / columns)
        for row in range(rows)
        for column in range(columns)
    ]
    clusters = KMeans(len(centres), init=points[centres], n_init=1, max_iter=20).fit_predict(points)
    _, numbers = np.unique(clusters, return_inverse=True)
    return torch.from_numpy(numbers.reshape(height, width)).long().to(image.device)
