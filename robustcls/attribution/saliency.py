"""Saliency: the gradient of the logit."""

from torch import Tensor, nn


def saliency(model: nn.Module, x: Tensor, target: Tensor, *, signed: bool = False) -> Tensor:
    """Gradient of the target's logit by each pixel, as magnitudes (Simonyan et al. 2013, arXiv:1312.6034): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. In logit per unit of pixel value. signed: the gradient itself in place of its
    magnitude; magnitudes are the paper's, and captum's default. The paper's maximum over channels is left to the reader.
    """
    from captum.attr import Saliency

    x = x.detach().clone().requires_grad_()  # captum would otherwise switch it on, and warn
    return Saliency(model).attribute(x, target, abs=not signed).detach()


def note(model: nn.Module, x: Tensor, *, signed: bool = False) -> str:
    return "gradient" if signed else "magnitude of the gradient"
