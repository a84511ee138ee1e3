"""Guided GradCAM: GradCAM's map times guided backpropagation's."""

from torch import Tensor, nn

from robustcls.attribution._preparation import prepared
from robustcls.attribution.gradcam import gradcam
from robustcls.attribution.gradcam import note as describe_layer


def guided_gradcam(
    model: nn.Module, x: Tensor, target: Tensor, *, layer: str | None = None, layout: str | None = None
) -> Tensor:
    """GradCAM, enlarged, times guided backpropagation (Selvaraju et al. 2016, arXiv:1610.02391): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Use it only for comparison with published figures: guided backpropagation reproduces edges
    of the image for any weights, and fails the sanity checks (Adebayo et al. 2018, arXiv:1810.03292). layer, layout: as for
    `gradcam`. Works on a prepared copy of the model (`_preparation`). Raises InputError if a module cannot be prepared.
    """
    from captum.attr import GuidedBackprop

    coarse = gradcam(model, x, target, layer=layer, layout=layout)
    guided = GuidedBackprop(prepared(model, x, "guided_gradcam"))
    return coarse[:, None] * guided.attribute(x.detach().clone().requires_grad_(), target).detach()


def note(model: nn.Module, x: Tensor, *, layer: str | None, layout: str | None = None) -> str:
    text = f"fails the sanity checks of Adebayo et al. 2018; {describe_layer(model, x, layer=layer, layout=layout)}"
    if not any(isinstance(module, nn.ReLU) for module in prepared(model, x, "guided_gradcam").modules()):
        text += "; without ReLU the gradient is the plain one"
    return text
