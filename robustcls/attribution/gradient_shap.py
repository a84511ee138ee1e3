"""GradientSHAP: expected gradients between random baselines and the image."""

import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import baselines_of
from robustcls.attribution._batches import images_per_pass, singly
from robustcls.core.errors import InputError


def gradient_shap(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 50,
    noise: float = 0.0,
    background: Tensor | None = None,
) -> Tensor:
    """Gradients at random points between baselines and image, times the difference (Lundberg and Lee 2017, arXiv:1705.07874).

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits: N,C,H,W; the expectation adds up to logit(x) minus the mean
    logit of the baselines. background: images to draw baselines from; None draws from the image's own black, mean and blur.
    noise: standard deviation of Gaussian noise on the image, in pixel values. Raises InputError for fewer than one sample.
    """
    from captum.attr import GradientShap

    if samples < 1 or noise < 0:
        raise InputError(f"gradient_shap: samples={samples}, noise={noise}: give positive ones, 50 and 0 are usual")
    method, size = GradientShap(model), images_per_pass(x)
    counts = [min(size, samples - start) for start in range(0, samples, size)]
    maps = []
    for image, one in singly(x.detach(), target):
        baselines = baselines_of(image, background)
        parts = [
            method.attribute(image, baselines, n_samples=count, stdevs=noise, target=one).detach() * (count / samples)
            for count in counts
        ]
        maps.append(torch.stack(parts).sum(0))
    return torch.cat(maps)


def note(model: nn.Module, x: Tensor, *, samples: int, noise: float) -> str:
    return f"baselines black, mean and blur, {samples} samples"
