"""What training does to each batch of images: a chain of augmentations."""

import inspect
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import probabilities
from robustcls.core.traits import traits_of

Augment = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def augmenter(spec: str, *, flip: bool, num_classes: int) -> Augment:
    """The chain of a spec such as `crop_flip(pad=2)+cutout(size=8)`: x N,C,H,W and y N to both, augmented.

    Labels that are mixed become probabilities N,K. Nothing is mirrored where `flip` (of the Images) is False.
    Raises InputError for a chain that is not one.
    """
    links = [plugins.load("augment", part) for part in _links(spec)]
    for link in links[:-1]:
        if traits_of(link).training_only:
            raise InputError(
                f"augment {spec!r}: {link.func.__name__} leaves [0, 1], where the others would cut it off: put it last"
            )
    if not flip:
        links = [partial(link, flip=False) if "flip" in _parameters(link) else link for link in links]
    mixes = ["y" in _parameters(link) for link in links]

    def augment(x: Tensor, y: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        for link, mix in zip(links, mixes, strict=True):
            if mix:
                x, y = link(x, probabilities(y, num_classes), generator)
            else:
                x = link(x, generator)
        return x, y

    return augment


def mixes_labels(spec: str) -> bool:
    """Whether a link of the chain gives images several labels. Raises InputError for a chain that is not one."""
    return any("y" in _parameters(plugins.load("augment", part)) for part in _links(spec))


def noise_of(spec: str) -> float | None:
    """The standard deviation of the Gaussian noise that a chain ends with; None without it. Raises InputError."""
    last = plugins.parse("augment", _links(spec)[-1])
    return float(plugins.resolved("augment", last)["sigma"]) if last.name == "gaussian" else None


def leaves_box(spec: str) -> bool:
    """Whether a chain gives pixels outside [0, 1]. Raises InputError for a chain that is not one."""
    return any(traits_of(plugins.load("augment", part)).training_only for part in _links(spec))


def _links(spec: str) -> list[str]:
    parts = [part.strip() for part in re.split(r"\+(?![^()]*\))", spec)]  # at each + outside of parentheses
    closed = spec.count("(") == spec.count(")")
    if not closed or not all(parts):
        fault = "a link is empty" if closed else "its parentheses do not match"
        raise InputError(f"augment {spec!r}: {fault}: write it as name(option=value)+name")
    return parts


def coins(n: int, flip: bool, x: Tensor, generator: Generator) -> Tensor:
    """One fair coin a sample; drawn even where nothing is mirrored, so that `flip` changes no other draw."""
    return (torch.rand(n, generator=generator, device=x.device) < 0.5) & flip


def box(x: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The mask N,1,H,W of the pixels of x in rows [top, bottom) and columns [left, right), each N; outside is cut off."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
    tall = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """y in the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _parameters(function: Callable) -> dict:
    return dict(inspect.signature(function).parameters)
