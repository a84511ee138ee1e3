"""Lossless compression of adversarial images, relative to their clean images."""

import zlib

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVEL = 1  # of zlib: the fastest

Packed = Tensor | tuple[bytes, tuple[int, ...]]


def pack(x_adv: Tensor, x: Tensor) -> Packed:
    """Compress x_adv (float32 N,C,H,W) as perturbations plus their rounding errors, ordered by byte so that zlib does well.

    The result is unpacked and compared bit by bit. If it differs, or is not smaller, x_adv is returned unchanged.
    """
    delta = x_adv - x
    # 0 unless x + delta rounds; integer overflow wraps around here and in `unpack` alike.
    rest = _bits(x_adv) - _bits(x + delta)
    columns = numpy.concatenate(
        [_bits(delta).view(numpy.uint8).reshape(-1, 4), rest.view(numpy.uint8).reshape(-1, 4)], 1
    )
    packed = zlib.compress(columns.tobytes("F"), LEVEL), tuple(x_adv.shape)
    if len(packed[0]) >= 4 * x_adv.numel() or not numpy.array_equal(_bits(unpack(packed, x)), _bits(x_adv)):
        return x_adv
    return packed


def unpack(packed: Packed, x: Tensor) -> Tensor:
    """Return the adversarial images that `pack` was given, for the same x."""
    if isinstance(packed, Tensor):
        return packed
    content, shape = packed
    planes = numpy.frombuffer(zlib.decompress(content), numpy.uint8).reshape(8, -1)
    delta, rest = (
        numpy.ascontiguousarray(planes[part].T).view(numpy.int32).reshape(shape) for part in (slice(4), slice(4, 8))
    )
    near = x + torch.from_numpy(delta).view(torch.float32)
    return torch.from_numpy(_bits(near) + rest.reshape(-1)).view(torch.float32).reshape(shape)


def _bits(images: Tensor) -> NDArray[numpy.int32]:
    return images.contiguous().view(torch.int32).reshape(-1).numpy()
