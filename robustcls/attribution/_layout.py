"""How a layer's output lies on the image: channels first, channels last, or a row of tokens. `gradcam` asks.

One pass of one image is watched: which functions made an output, and which took it. A convolution takes channels first, a
linear layer or a layer norm channels last; what keeps the shape, such as a sum or an activation, keeps the layout too.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from robustcls.core.errors import InputError
from robustcls.runtime.fused import uncompiled

LAYOUTS = {"nchw": 4, "nhwc": 4, "ntc": 3}  # and their dimensions
CHANNELS_FIRST = {
    "conv1d", "conv2d", "conv_transpose2d", "batch_norm", "instance_norm", "group_norm", "max_pool2d",
    "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "interpolate", "pixel_shuffle",
}  # fmt: skip
NORMS = {"layer_norm", "rms_norm"}
CHANNELS_LAST = NORMS | {"linear"}
KEEP_LAYOUT = {
    "add", "iadd", "radd", "sub", "isub", "mul", "imul", "rmul", "div", "relu", "relu6", "gelu", "silu", "mish", "elu",
    "selu", "celu", "leaky_relu", "hardswish", "hardtanh", "softplus", "sigmoid", "tanh", "dropout", "clone",
    "contiguous", "detach", "to", "float",
}  # fmt: skip
MOST_EXTRA = 8  # tokens beside the patches, such as class and registers, where the pass does not show how many
NEARLY = 1.5  # proportions of grid and image that may still be the same picture


@dataclass(frozen=True)
class Grid:
    """Where the height x width places of a layer's output are in it."""

    layout: str  # of LAYOUTS
    height: int
    width: int
    before: int = 0  # tokens before those of the grid
    extra: int = 0  # tokens that are no places: class, registers

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def take(self, output: Tensor) -> Tensor:
        """The output as N,C,H,W."""
        if self.layout == "nchw":
            return output
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        places = output[:, self.before : self.before + self.height * self.width]
        return places.transpose(1, 2).unflatten(2, self.size)


class Watched(TorchFunctionMode):
    """What a pass of one image (1,C,H,W) showed: what each function says of the layout of the tensors it takes and gives."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image
        self.logits: Any = None
        self.runs: list[tuple[str, Any]] = []  # each run of a module, with its output, in order
        self.kept: dict[int, Tensor] = {}  # held, so that none of their ids is given out again
        # By a tensor's id, one set for all of the same layout: first, norm or linear; the last two have channels last.
        self.said: dict[int, set[str]] = {}
        self.normed: set[int] = set()  # outputs of norms
        self.grids: list[tuple[int, int]] = []  # of outputs with channels first, the last first
        self.joined: dict[int, tuple[int, int]] = {}  # tokens in all: those before the most, and how many these are

    def grid(self, name: str, output: Any, layout: str | None = None) -> Grid | None:
        """The grid of a layer's output; None where it has none. layout: as the user says.

        Raises InputError, naming the layer, where two layouts fit.
        """
        if not isinstance(output, Tensor) or output.ndim not in (3, 4) or len(output) != 1:
            return None
        if layout is not None and output.ndim != LAYOUTS[layout]:
            return None
        if output.ndim == 3:
            return self._tokens(name, output, layout)
        layout = layout or self._four(name, output)
        return Grid(layout, *_sides(output, layout))

    def is_norm(self, output: Any) -> bool:
        return id(output) in self.normed

    def _four(self, name: str, output: Tensor) -> str:
        said = self._said_of(output)
        if said == {"first"}:
            return "nchw"
        if said and "first" not in said and "norm" in said:
            return "nhwc"
        fits = self._proportioned(output)
        if said == {"linear"} and ("nhwc" in fits or not fits):  # one along the width of N,C,H,W is no evidence
            return "nhwc"
        if len(fits) == 1 and said != {"linear"}:
            return fits[0]
        raise _unclear(name, output, "channels first or channels last", "nhwc", "nchw")

    def _proportioned(self, output: Tensor) -> list[str]:
        """The layouts whose grid has exactly the image's proportions; where none has, nearly."""
        height, width = self.image.shape[2:]
        grids = {layout: _sides(output, layout) for layout in ("nchw", "nhwc")}
        fits: list[str] = []
        for allowed in (1.0, NEARLY):
            fits = fits or [
                layout for layout, (h, w) in grids.items()
                if h <= height and w <= width and max(h * width, w * height) <= allowed * min(h * width, w * height)
            ]  # fmt: skip
        return fits

    def _tokens(self, name: str, output: Tensor, layout: str | None) -> Grid | None:
        said = self._said_of(output)
        if layout is None and said == {"first"}:
            return None
        _, rows, columns = output.shape
        grid, transposed = self._places(rows), self._places(columns)
        if grid and transposed and layout is None and ("norm" not in said or "first" in said):
            raise _unclear(name, output, "tokens, channels or the reverse", "ntc")
        return grid

    def _places(self, tokens: int) -> Grid | None:
        """The grid of so many tokens, of which a few may be no places."""
        height, width = self.image.shape[2:]
        divisor = gcd(height, width)
        sides = [grid for kept in self.grids for grid in _halved(*kept)]
        sides = sides or [(height // p, width // p) for p in range(2, divisor + 1) if divisor % p == 0]
        sides = [(h, w) for h, w in sides if h * w > 1]
        if tokens in self.joined:  # the pass showed what stands before the patches
            before, places = self.joined[tokens]
            for h, w in sides:
                if h * w == places:
                    return Grid("ntc", h, w, before, tokens - places)
        fits = [(tokens - h * w, (h, w)) for h, w in sides if 0 <= tokens - h * w <= MOST_EXTRA]
        if not fits:
            return None
        extra, (h, w) = min(fits, key=lambda fit: fit[0])
        return Grid("ntc", h, w, extra, extra)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.ndim in (3, 4):
            name = getattr(function, "__name__", "").strip("_")
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if name not in NORMS or _norm_of_one_axis(args, kwargs):
                self._learn(name, inputs, result)
        return result

    def _said_of(self, tensor: Tensor) -> set[str]:
        return self.said.setdefault(id(tensor), set())

    def _learn(self, name: str, inputs: list[Tensor], result: Tensor) -> None:
        self.kept.update({id(tensor): tensor for tensor in (*inputs, result)})
        if name in CHANNELS_FIRST or name in CHANNELS_LAST:
            word = "first" if name in CHANNELS_FIRST else "norm" if name in NORMS else "linear"
            for tensor in (*inputs[:1], result):
                if tensor.ndim in (3, 4):
                    self._said_of(tensor).add(word)
            if name in CHANNELS_FIRST and result.ndim == 4:
                self.grids.insert(0, (result.shape[2], result.shape[3]))
            if name in NORMS:
                self.normed.add(id(result))
        elif name in KEEP_LAYOUT:
            for tensor in inputs:
                if tensor.shape == result.shape:
                    self._join(self._said_of(tensor), self._said_of(result))
        elif name in ("cat", "concat", "concatenate") and result.ndim == 3:
            self._note_joined([tensor for tensor in inputs if tensor.ndim == 3], result)

    def _note_joined(self, parts: list[Tensor], result: Tensor) -> None:
        counts = [part.shape[1] for part in parts]
        if sum(counts) == result.shape[1] and len(counts) > 1 and max(counts) > 1:
            at = counts.index(max(counts))
            self.joined[result.shape[1]] = (sum(counts[:at]), counts[at])

    def _join(self, one: set[str], other: set[str]) -> None:
        other |= one
        self.said.update({key: other for key, said in self.said.items() if said is one})


def watch(model: nn.Module, x: Tensor, modules: Mapping[str, nn.Module]) -> Watched:
    """A pass of the first image of x, with gradients, in which each run of these modules is noted."""
    seen = Watched(x[:1].detach().clone().requires_grad_())

    def record(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.runs.append((name, output))

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        with torch.enable_grad(), uncompiled(), seen:
            seen.logits = model(seen.image.clone())
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _norm_of_one_axis(args: Any, kwargs: Any) -> bool:
    shape = args[1] if len(args) > 1 else (kwargs or {}).get("normalized_shape", ())
    return len(shape) == 1


def _sides(output: Tensor, layout: str) -> tuple[int, int]:
    return (output.shape[2], output.shape[3]) if layout == "nchw" else (output.shape[1], output.shape[2])


def _halved(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The grid, and what merging patches two by two makes of it."""
    yield height, width
    while height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
        yield height, width


def _unclear(name: str, output: Tensor, what: str, *layouts: str) -> InputError:
    shape, ways = f"N,{','.join(map(str, output.shape[1:]))}", " or ".join(f'layout="{one}"' for one in layouts)
    return InputError(
        f"gradcam: layer {name!r}: an output {shape} is {what}: say which, as {ways}, or name another layer"
    )
