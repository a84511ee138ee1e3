"""GradCAM: a convolution's channels, weighted by how much the logit rises with each."""

from collections.abc import Mapping
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError

MIN_GRID = 4


def gradcam(model: nn.Module, x: Tensor, target: Tensor, *, layer: str | None = None, relu: bool = True) -> Tensor:
    """Channels of a layer weighted by their mean gradient (Selvaraju et al. 2016, arXiv:1610.02391): N,H,W.

    x: N,C,H,W in [0, 1]; target: N. The sum over channels, on the layer's grid, is enlarged bilinearly to the image. relu:
    keep the evidence for the class alone, as in the paper; False keeps the sign. layer: the name of a module in
    `model.named_modules()` with an output N,C,H,W. None takes the last convolution in forward order on a grid of 4x4 or
    finer: VGG16 ends on 2x2 where images are 32x32, four numbers that would look like a map. Where no grid is that fine,
    it is the last convolution on the finest grid there is. `layer_and_grid` says which it was. Raises InputError for a
    layer that does not exist (naming the nearest), does not run exactly once, or has no grid.
    """
    from captum.attr import LayerGradCam

    name, _ = layer_and_grid(model, x, layer)
    # Captum passes a copy of the layer's output on, so that a ReLU in place behind it does not change what is weighted.
    method = LayerGradCam(model, model.get_submodule(name))
    maps = method.attribute(x.detach(), target, relu_attributions=relu).detach()
    return nn.functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)


def layer_and_grid(model: nn.Module, x: Tensor, layer: str | None = None) -> tuple[str, tuple[int, int]]:
    """The name of the layer that `gradcam` uses for images like x, and the height and width of its grid."""
    modules = dict(model.named_modules())
    convolutions = {name: module for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    if layer is None:
        return _finest(_grids(model, x, convolutions))
    if layer not in modules:
        near = get_close_matches(layer, modules, n=3, cutoff=0.4) or list(convolutions)[-3:] or list(modules)[-3:]
        raise InputError(f"gradcam: the model has no layer {layer!r}: the nearest are {', '.join(near)}")
    runs = _grids(model, x, {layer: modules[layer]})
    if len(runs) != 1:
        raise InputError(f"gradcam: layer {layer!r} runs {len(runs)} times in a pass: name a layer that runs once")
    ((name, grid),) = runs
    if grid is None:
        raise InputError(f"gradcam: layer {layer!r} has no grid: name a layer whose output is N,C,H,W")
    return name, grid


def note(model: nn.Module, x: Tensor, *, layer: str | None = None, relu: bool = True) -> str:
    name, (height, width) = layer_and_grid(model, x, layer)
    return f"grid {height}x{width} of layer {name or 'model'}"


def _finest(runs: list[tuple[str, tuple[int, int] | None]]) -> tuple[str, tuple[int, int]]:
    """The last run on a grid of 4x4 or finer, else the last on the finest. Modules that run more than once do not count."""
    once = [name for name, _ in runs]
    usable = [(name, grid) for name, grid in runs if grid is not None and once.count(name) == 1]
    if not usable:
        raise InputError("gradcam: the model has no convolution that runs once: name a layer with an output N,C,H,W")
    fine = min(MIN_GRID, max(min(grid) for _, grid in usable))
    return next((name, grid) for name, grid in reversed(usable) if min(grid) >= fine)


def _grids(model: nn.Module, x: Tensor, modules: Mapping[str, nn.Module]) -> list[tuple[str, tuple[int, int] | None]]:
    """Each run of these modules in a pass of the first image, in order, with the grid of its output; None without one."""
    runs: list[tuple[str, tuple[int, int] | None]] = []

    def record(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            image = isinstance(output, Tensor) and output.ndim == 4
            runs.append((name, (output.shape[2], output.shape[3]) if image else None))  # type: ignore[attr-defined]

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            model(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return runs
