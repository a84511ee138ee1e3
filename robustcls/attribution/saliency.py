"""Saliency: the gradient of the logit."""

from torch import Tensor, nn


def saliency(model: nn.Module, x: Tensor, target: Tensor, *, signed: bool = False) -> Tensor:
    """Magnitude of the gradient of the target's logit (Simonyan et al. 2013, arXiv:1312.6034): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. In logit per unit of pixel value. signed: return the gradient itself instead of its
    magnitude, which the paper uses, and which is captum's default. The paper's maximum over channels is not taken.
    """
    from captum.attr import Saliency

    x = x.detach().clone().requires_grad_()  # otherwise captum enables gradients itself, and warns
    return Saliency(model).attribute(x, target, abs=not signed).detach()


def note(model: nn.Module, x: Tensor, *, signed: bool = False) -> str:
    return "gradient" if signed else "magnitude of the gradient"
