"""SmoothGrad: the gradient of the logit, averaged over noisy copies of the image."""

import torch
from torch import Tensor, nn

from robustcls.attribution._batches import images_per_pass, singly
from robustcls.core.errors import InputError


def smoothgrad(
    model: nn.Module, x: Tensor, target: Tensor, *, samples: int = 25, noise: float = 0.1, signed: bool = False
) -> Tensor:
    """Mean gradient of the target's logit over Gaussian noise (Smilkov et al. 2017, arXiv:1706.03825): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. noise: standard deviation, in pixel values. signed: return the mean gradient itself
    instead of its magnitude. Raises InputError for fewer than one sample, or noise that is not positive.
    """
    from captum.attr import NoiseTunnel, Saliency

    if samples < 1 or not noise > 0:
        raise InputError(f"smoothgrad: samples={samples}, noise={noise}: give positive ones, 25 and 0.1 are usual")
    tunnel = NoiseTunnel(Saliency(model))
    maps = [
        tunnel.attribute(
            image, nt_samples=samples, nt_samples_batch_size=images_per_pass(x), stdevs=noise, target=one, abs=False
        ).detach()
        for image, one in singly(x.detach().clone().requires_grad_(), target)
    ]
    return torch.cat(maps) if signed else torch.cat(maps).abs()


def note(model: nn.Module, x: Tensor, *, samples: int, noise: float, signed: bool) -> str:
    return f"{'' if signed else 'magnitude of the '}mean gradient of {samples} copies with noise {noise:g}"
