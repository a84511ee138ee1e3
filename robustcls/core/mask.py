"""Masks: the pixels of an image that an attacker may change."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from robustcls.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True)
class Mask:
    """The pixels that may change, in all channels: `allowed`, bool H,W. Masks of the same pixels compare equal."""

    allowed: "Tensor" = field(compare=False, repr=False)
    name: str = field(default="mask", compare=False)
    sha256: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if not self.pixels:
            raise InputError(f"{self.name} lets no pixel change: it must be white, or True, where pixels may")
        content = repr(tuple(self.allowed.shape)).encode() + self.allowed.cpu().numpy().tobytes()
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())

    @classmethod
    def of(cls, given: object) -> "Mask":
        """Return a Mask unchanged, or build one from a bool tensor H,W. Raises InputError."""
        import torch

        if isinstance(given, Mask):
            return given
        if not isinstance(given, torch.Tensor) or given.dtype != torch.bool or given.ndim != 2:
            kind = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else type(given)
            raise InputError(f"`mask` is {kind}: give a bool tensor H,W, True where a pixel may change")
        return cls(given.detach().clone())

    @cached_property
    def pixels(self) -> int:
        """The number of pixels that may change."""
        return int(self.allowed.sum())

    def on(self, device: "device") -> "Tensor":
        return self.allowed.to(device)

    def check_size(self, size: Sequence[int]) -> None:
        """Raise InputError if the mask does not have this image size H,W."""
        own = tuple(self.allowed.shape)
        if own != tuple(size):
            mask_size, image_size = (" x ".join(map(str, one)) for one in (own, size))
            raise InputError(f"{self.name} has {mask_size} pixels, the images {image_size}: give a mask of their size")
