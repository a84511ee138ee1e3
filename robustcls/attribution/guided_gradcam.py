"""Guided GradCAM: GradCAM's map times guided backpropagation's."""

from torch import Tensor, nn

from robustcls.attribution.gradcam import layer_and_grid
from robustcls.attribution.gradcam import note as describe_layer
from robustcls.attribution.preparation import prepared


def guided_gradcam(model: nn.Module, x: Tensor, target: Tensor, *, layer: str | None = None) -> Tensor:
    """GradCAM, enlarged, times guided backpropagation (Selvaraju et al. 2016, arXiv:1610.02391): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. For comparison with other people's pictures: guided backpropagation restores edges
    of the image whatever the weights, and fails the sanity checks (Adebayo et al. 2018, arXiv:1810.03292). layer: as for
    `gradcam`. Works on a mended copy of the model (`preparation`). Raises InputError where a module cannot be mended.
    """
    from captum.attr import GuidedGradCam

    name, _ = layer_and_grid(model, x, layer)
    with prepared(model, x, "guided_gradcam") as mended:
        method = GuidedGradCam(mended, mended.get_submodule(name))
        return method.attribute(x.detach().clone().requires_grad_(), target, interpolate_mode="bilinear").detach()


def note(model: nn.Module, x: Tensor, *, layer: str | None) -> str:
    return f"fails the sanity checks of Adebayo et al. 2018; {describe_layer(model, x, layer=layer)}"
