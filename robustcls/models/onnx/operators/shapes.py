"""Shapes, reductions and indexing."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.models.onnx.operators._values import ints


def ReduceMean(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.mean(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceSum(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.sum(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceMax(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.amax(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceMin(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.amin(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceL2(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return torch.linalg.vector_norm(x, dim=_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceL1(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.abs().sum(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceSumSquare(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.square().sum(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceLogSumExp(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return x.logsumexp(_axes(axes, x, noop_with_empty_axes), keepdim=bool(keepdims))


def ReduceLogSum(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    return ReduceSum(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes).log()


def ReduceProd(x: Tensor, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in _axes(axes, x, noop_with_empty_axes)), reverse=True):
        x = x.prod(axis, keepdim=bool(keepdims))
    return x


def ArgMax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    if select_last_index:
        raise NotImplementedError("ArgMax with select_last_index")
    return x.argmax(axis, keepdim=bool(keepdims))


def _axes(axes: Any, x: Tensor, noop_with_empty_axes: int) -> list[int]:
    if noop_with_empty_axes and not ints(axes):
        raise NotImplementedError("a reduction over no axis")
    return ints(axes) or list(range(x.ndim))


def Shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


def Reshape(x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    sizes = ints(shape)
    return x.reshape([x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(sizes)])


def Flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def Transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm or reversed(range(x.ndim))))


def Squeeze(x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


def Unsqueeze(x: Tensor, axes: Any) -> Tensor:
    positions = ints(axes)
    rank = x.ndim + len(positions)
    for axis in sorted(axis % rank for axis in positions):
        x = x.unsqueeze(axis)
    return x


def Concat(*inputs: Tensor, axis: int) -> Tensor:
    return torch.cat(inputs, axis)


def Split(x: Tensor, split: Any = None, *, axis: int = 0, num_outputs: int = 0, outputs: int) -> tuple[Tensor, ...]:
    sizes: Any = -(-x.shape[axis] // (num_outputs or outputs)) if split is None else ints(split)
    return x.split(sizes, axis)


def Slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    first = ints(starts)
    where = list(range(len(first))) if axes is None else ints(axes)
    strides = [1] * len(first) if steps is None else ints(steps)
    for axis, start, end, step in zip(where, first, ints(ends), strides, strict=True):
        if step > 0:
            picked = [slice(None)] * x.ndim
            picked[axis] = slice(start, end, step)
            x = x[tuple(picked)]
        else:  # PyTorch has no negative steps
            chosen = range(x.shape[axis])[slice(start, end if end >= -x.shape[axis] else None, step)]
            x = x.index_select(axis, torch.tensor(list(chosen), device=x.device))
    return x


def Gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis, indices = axis % x.ndim, indices.long()
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).flatten()
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def GatherND(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise NotImplementedError("GatherND with batch_dims")
    return x[tuple(indices.long().unbind(-1))]


def TopK(x: Tensor, k: Any, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    values, places = x.topk(ints(k)[0] if isinstance(k, Tensor) else k, axis, bool(largest), bool(sorted))
    return values, places


def CumSum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    (at,) = ints(axis)
    total = x.flip(at).cumsum(at).flip(at) if reverse else x.cumsum(at)
    return total - x if exclusive else total


def ScatterND(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if reduction not in ("none", "add"):
        raise NotImplementedError(f"ScatterND with reduction {reduction}")
    return x.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")


def Expand(x: Tensor, shape: Tensor) -> Tensor:
    return x * torch.ones(ints(shape), dtype=x.dtype, device=x.device)


def Tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


def Pad(x: Tensor, pads: Any, value: Any = 0.0, axes: Any = None, *, mode: str = "constant") -> Tensor:
    sides = ints(pads)
    count = len(sides) // 2
    where = list(range(count)) if axes is None else [axis % x.ndim for axis in ints(axes)]
    edges = [0] * 2 * x.ndim  # from the last dimension to the first
    for i, axis in enumerate(where):
        at = 2 * (x.ndim - 1 - axis)
        edges[at : at + 2] = sides[i], sides[i + count]
    if mode == "constant":
        return F.pad(x, edges, value=float(0.0 if value is None else value))
    while edges[-2:] == [0, 0]:
        edges = edges[:-2]
    return F.pad(x, edges, mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode))


def Resize(
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    antialias: int = 0,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    """Resize images N,C,H,W, bilinear, or nearest in the variant that PyTorch exports; other modes are not supported."""
    if opset < 11:  # two inputs
        roi, scales = None, roi
        coordinate_transformation_mode, nearest_mode = "asymmetric", "floor"
    if sizes is None or sizes.numel() == 0:
        assert scales is not None
        exact = [factor * size for factor, size in zip(scales.tolist(), x.shape, strict=True)]
    else:
        exact = [float(size) for size in ints(sizes)]
    wanted = [int(size) for size in exact[2:]]
    if x.ndim != 4 or exact[:2] != list(x.shape[:2]):
        raise NotImplementedError("Resize of other dimensions than height and width")
    if antialias or exact[2:] != wanted or min(wanted) < 2:
        odd = "antialias" if antialias else "a size that is not a whole number, or 1"
        raise NotImplementedError(f"Resize with {odd}")
    how = (mode, coordinate_transformation_mode)
    if (*how, nearest_mode) == ("nearest", "asymmetric", "floor"):
        return F.interpolate(x, wanted, mode="nearest")
    if how in (("linear", "half_pixel"), ("linear", "pytorch_half_pixel"), ("linear", "align_corners")):
        return F.interpolate(x, wanted, mode="bilinear", align_corners=how[1] == "align_corners")
    raise NotImplementedError(f"Resize {mode} with coordinates {coordinate_transformation_mode}")


def Upsample(x: Tensor, scales: Tensor, *, mode: str = "nearest") -> Tensor:
    return Resize(x, scales, mode=mode, opset=10)


def DepthToSpace(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def SpaceToDepth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
