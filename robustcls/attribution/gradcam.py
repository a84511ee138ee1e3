"""GradCAM: a layer's channels, weighted by the gradient of the logit with respect to each."""

from collections import Counter
from contextlib import suppress
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from robustcls.attribution._layout import LAYOUTS, Grid, Watched, watch
from robustcls.core.errors import InputError

MIN_GRID = 4
BLOCKS = 2  # with this many norms on a grid after the last convolution, the model is taken for a transformer


def gradcam(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    layer: str | None = None,
    relu: bool = True,
    layout: str | None = None,
) -> Tensor:
    """Channels of a layer weighted by their mean gradient (Selvaraju et al. 2016, arXiv:1610.02391): N,H,W.

    x: N,C,H,W in [0, 1]; target: N. The sum over channels, on the layer's grid, is enlarged bilinearly to the image. relu: keep
    only evidence for the class, as in the paper; False keeps the sign. layer: the name of a module in `model.named_modules()`
    with an output N,C,H,W, N,H,W,C (Swin) or N,T,C (ViT), whose T tokens are a grid and a few others, such as the class token,
    which are left out. layout: nchw, nhwc or ntc, if a forward pass does not show which it is.

    By default, layer is the last convolution in forward order on a grid of 4x4 or finer (on 32x32 images VGG16 ends on 2x2,
    four numbers that would only look like a map), or, in a transformer, the last norm on such a grid on whose positions the
    logits depend. If no grid is that fine, it is the last layer on the finest grid. `layer_and_grid` returns the choice. Raises
    InputError for a layer that does not exist (naming the nearest), does not run exactly once, has no grid or an ambiguous one,
    and for tokens that the logits do not depend on.
    """
    name, grid, _ = _choose(model, x, layer, layout)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # so that an in-place ReLU after the layer does not change the values kept

    handle = model.get_submodule(name).register_forward_hook(keep)
    try:
        logits = model(x.detach().clone().requires_grad_())
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), kept)
    slopes = grid.take(gradient)
    if grid.layout == "ntc" and not slopes.any() and gradient.any():
        raise InputError(
            f"gradcam: the logits depend on the tokens of layer {name!r} only through the class token: name a layer before "
            f"the last attention, such as {_choose(model, x, None, None)[0]!r}, the default"
        )
    maps = (slopes.mean((2, 3), keepdim=True) * grid.take(kept[0].detach())).sum(1, keepdim=True)
    maps = maps.clamp_min(0) if relu else maps
    return nn.functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False).squeeze(1)


def layer_and_grid(
    model: nn.Module, x: Tensor, layer: str | None = None, layout: str | None = None
) -> tuple[str, tuple[int, int]]:
    """Return the name of the layer that `gradcam` uses for images like x, and the height and width of its grid."""
    name, grid, _ = _choose(model, x, layer, layout)
    return name, grid.size


def note(model: nn.Module, x: Tensor, *, layer: str | None = None, relu: bool = True, layout: str | None = None) -> str:
    name, grid, embedding = _choose(model, x, layer, layout)
    text = f"grid {grid.height}x{grid.width} of layer {name or 'model'}"
    if grid.layout == "nhwc":
        text += ", channels last"
    if grid.layout == "ntc":
        text += f", of {grid.height * grid.width + grid.extra} tokens"
    if embedding:
        text += "; that is the patch embedding, before any block: name a later layer for what the model makes of it"
    return text


def _choose(model: nn.Module, x: Tensor, layer: str | None, layout: str | None) -> tuple[str, Grid, bool]:
    """Return the layer's name, its grid, and whether it is the patch embedding of a transformer."""
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"gradcam: layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if layout is not None and layer is None:
        raise InputError(f'gradcam: layout is that of a layer: name it, as gradcam(layer="...", layout="{layout}")')
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        convolutions = [name for name, module in modules.items() if is_convolution(module)]
        near = get_close_matches(layer, modules, n=3, cutoff=0.4) or convolutions[-3:] or list(modules)[-3:]
        raise InputError(f"gradcam: the model has no layer {layer!r}: the nearest are {', '.join(near)}")
    seen = watch(model, x, modules)
    name, grid = _finest(seen, modules) if layer is None else (layer, _named(seen, layer, layout))
    run = [module for one, _ in seen.runs if is_convolution(module := modules[one])]
    # A patch embedding is the only convolution of the model, and cuts the image into patches.
    embedding = len(run) == 1 and run[0] is modules[name] and _cuts_patches(run[0])
    return name, grid, embedding


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution, of PyTorch or of an exported file's graph."""
    return isinstance(module, nn.Conv2d) or getattr(module, "is_convolution", False)


def _cuts_patches(module: nn.Module) -> bool:
    stride, kernel = getattr(module, "stride", None), getattr(module, "kernel_size", None)
    return stride == kernel and stride not in (None, (1, 1))


def _named(seen: Watched, layer: str, layout: str | None) -> Grid:
    outputs = [output for name, output in seen.runs if name == layer]
    if len(outputs) != 1:
        raise InputError(f"gradcam: layer {layer!r} runs {len(outputs)} times in a pass: name a layer that runs once")
    grid = seen.grid(layer, outputs[0], layout)
    if grid is None:
        shape = f" N,{','.join(map(str, outputs[0].shape[1:]))}" if isinstance(outputs[0], Tensor) else ""
        raise InputError(
            f"gradcam: layer {layer!r} has no grid: name a layer whose output{shape and ' is not' + shape + ' but'} is "
            "N,C,H,W, N,H,W,C, or N,T,C with one token per patch"
        )
    return grid


def _finest(seen: Watched, modules: dict[str, nn.Module]) -> tuple[str, Grid]:
    """Return the last layer on a grid of 4x4 or finer, else the last on the finest grid. Modules that run twice do not count.

    Considered are convolutions or, in a transformer, norms.
    """
    counts = Counter(name for name, _ in seen.runs)
    single = [(name, output) for name, output in seen.runs if counts[name] == 1]
    grids: dict[int, Grid] = {}  # by position in `single`
    convolutions: list[int] = []
    norms: list[int] = []
    for place, (name, output) in enumerate(single):
        convolution = is_convolution(modules[name])
        if not convolution and (not seen.is_norm(output) or any(single[norm][1] is output for norm in norms)):
            continue
        with suppress(InputError):  # an ambiguous layout: use another layer
            if grid := seen.grid(name, output):
                grids[place] = grid
                (convolutions if convolution else norms).append(place)
    last = max(convolutions, default=-1)
    norms = [place for place in norms if place > last and min(grids[place].size) > 1]
    usable = convolutions
    if len(norms) >= BLOCKS or not convolutions:
        usable = _with_slopes(seen, norms, [single[place][1] for place in norms], grids) or convolutions
    if not usable:
        raise InputError(
            "gradcam: the model has no convolution, and no norm on a grid, that runs once: name a layer with an output "
            "N,C,H,W, N,H,W,C or N,T,C"
        )
    fine = min(MIN_GRID, max(min(grids[place].size) for place in usable))
    place = next(place for place in reversed(usable) if min(grids[place].size) >= fine)
    return single[place][0], grids[place]


def _with_slopes(seen: Watched, places: list[int], outputs: list[Tensor], grids: dict[int, Grid]) -> list[int]:
    """Return the places on whose grids the largest logit depends; it does not depend on the patches of a ViT's last norm."""
    if not places or not getattr(seen.logits, "requires_grad", False):
        return []
    slopes = torch.autograd.grad(seen.logits[0].max(), outputs, allow_unused=True)
    return [
        place
        for place, slope in zip(places, slopes, strict=True)
        if slope is not None and grids[place].take(slope).any()
    ]
