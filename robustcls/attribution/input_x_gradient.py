"""Input x gradient: the gradient of the logit, weighted by the pixels."""

from torch import Tensor, nn


def input_x_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Gradient of the target's logit times the pixel (Shrikumar et al. 2016, arXiv:1605.01713): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits. Black pixels always get 0, even if the model relies on them.
    """
    from captum.attr import InputXGradient

    return InputXGradient(model).attribute(x.detach().clone().requires_grad_(), target).detach()


def note(model: nn.Module, x: Tensor) -> str:
    return "gradient times pixel"
