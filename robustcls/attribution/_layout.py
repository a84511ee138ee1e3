"""Detect the layout of a layer's output for `gradcam`: channels first, channels last, or a sequence of tokens.

One forward pass of one image is observed, to see which functions produce a tensor and which consume it. A convolution takes
channels first; a linear layer or a layer norm takes channels last; a function that keeps the shape, such as a sum or an
activation, also keeps the layout.
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

LAYOUTS = {"nchw": 4, "nhwc": 4, "ntc": 3}  # layout: number of dimensions
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
MOST_EXTRA = 8  # largest number of extra tokens (class token, registers) that is assumed if the pass does not show it
NEARLY = 1.5  # largest ratio of the aspect ratios of grid and image that is still accepted


@dataclass(frozen=True)
class Grid:
    """The spatial grid in the output of a layer: height x width positions."""

    layout: str  # a key of LAYOUTS
    height: int
    width: int
    before: int = 0  # number of tokens before those of the grid
    extra: int = 0  # number of tokens outside the grid: class token, registers

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
    """Observe a forward pass of one image (1,C,H,W), and collect evidence on the layout of each tensor from the functions."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image
        self.logits: Any = None
        self.runs: list[tuple[str, Any]] = []  # (name, output) of each run of a module, in order
        self.kept: dict[int, Tensor] = {}  # tensors by id; kept alive, so that no id is reused
        # By the id of a tensor: evidence for channels first ("first") or channels last ("norm", "linear"). Tensors that are
        # known to have the same layout share one set.
        self.evidence: dict[int, set[str]] = {}
        self.normed: set[int] = set()  # outputs of norms
        self.grids: list[tuple[int, int]] = []  # sizes of outputs with channels first, latest first
        self.joined: dict[int, tuple[int, int]] = {}  # number of tokens: (tokens before the grid, tokens of the grid)

    def grid(self, name: str, output: Any, layout: str | None = None) -> Grid | None:
        """Return the grid of a layer's output, or None if it has none. layout: the layout that the user gave.

        Raises InputError, which names the layer, if two layouts fit.
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
        evidence = self._evidence_of(output)
        if evidence == {"first"}:
            return "nchw"
        if evidence and "first" not in evidence and "norm" in evidence:
            return "nhwc"
        fits = self._proportioned(output)
        # A linear layer alone proves nothing: it may act along the width of N,C,H,W. The proportions must agree.
        if evidence == {"linear"} and ("nhwc" in fits or not fits):
            return "nhwc"
        if len(fits) == 1 and evidence != {"linear"}:
            return fits[0]
        raise _unclear(name, output, "channels first or channels last", "nhwc", "nchw")

    def _proportioned(self, output: Tensor) -> list[str]:
        """The layouts whose grid has the proportions of the image: exactly, or else nearly."""
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
        evidence = self._evidence_of(output)
        if layout is None and evidence == {"first"}:
            return None
        _, rows, columns = output.shape
        grid, transposed = self._places(rows), self._places(columns)
        if grid and transposed and layout is None and ("norm" not in evidence or "first" in evidence):
            raise _unclear(name, output, "tokens, channels or the reverse", "ntc")
        return grid

    def _places(self, tokens: int) -> Grid | None:
        """The grid of a sequence with this number of tokens, a few of which may lie outside the grid; None if none fits."""
        height, width = self.image.shape[2:]
        divisor = gcd(height, width)
        sides = [grid for kept in self.grids for grid in _halved(*kept)]
        sides = sides or [(height // p, width // p) for p in range(2, divisor + 1) if divisor % p == 0]
        sides = [(h, w) for h, w in sides if h * w > 1]
        if tokens in self.joined:  # the pass showed how many tokens precede the patches
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

    def _evidence_of(self, tensor: Tensor) -> set[str]:
        return self.evidence.setdefault(id(tensor), set())

    def _learn(self, name: str, inputs: list[Tensor], result: Tensor) -> None:
        self.kept.update({id(tensor): tensor for tensor in (*inputs, result)})
        if name in CHANNELS_FIRST or name in CHANNELS_LAST:
            word = "first" if name in CHANNELS_FIRST else "norm" if name in NORMS else "linear"
            for tensor in (*inputs[:1], result):
                if tensor.ndim in (3, 4):
                    self._evidence_of(tensor).add(word)
            if name in CHANNELS_FIRST and result.ndim == 4:
                self.grids.insert(0, (result.shape[2], result.shape[3]))
            if name in NORMS:
                self.normed.add(id(result))
        elif name in KEEP_LAYOUT:
            for tensor in inputs:
                if tensor.shape == result.shape:
                    self._join(self._evidence_of(tensor), self._evidence_of(result))
        elif name in ("cat", "concat", "concatenate") and result.ndim == 3:
            self._note_joined([tensor for tensor in inputs if tensor.ndim == 3], result)

    def _note_joined(self, parts: list[Tensor], result: Tensor) -> None:
        counts = [part.shape[1] for part in parts]
        if sum(counts) == result.shape[1] and len(counts) > 1 and max(counts) > 1:
            at = counts.index(max(counts))
            self.joined[result.shape[1]] = (sum(counts[:at]), counts[at])

    def _join(self, one: set[str], other: set[str]) -> None:
        other |= one
        self.evidence.update({key: other for key, known in self.evidence.items() if known is one})


def watch(model: nn.Module, x: Tensor, modules: Mapping[str, nn.Module]) -> Watched:
    """Run the first image of x through the model, with gradients, and record each run of these modules."""
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
    """The grid, and the smaller grids that arise when patches are merged two by two."""
    yield height, width
    while height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
        yield height, width


def _unclear(name: str, output: Tensor, what: str, *layouts: str) -> InputError:
    shape, ways = f"N,{','.join(map(str, output.shape[1:]))}", " or ".join(f'layout="{one}"' for one in layouts)
    return InputError(
        f"gradcam: layer {name!r}: an output {shape} is {what}: say which, as {ways}, or name another layer"
    )
