"""Augmentation: the chain of functions that training applies to each batch of images."""

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
    """Return the chain of a spec such as `crop_flip(pad=2)+cutout(size=8)` as a function (x, y, generator) -> (x, y).

    x: N,C,H,W. y: labels N, which become probabilities N,K where a link of the chain mixes labels. flip: False where images
    must not be mirrored. Raises InputError for an invalid chain.
    """
    links = [plugins.load("augment", part) for part in _links(spec)]
    for link in links[:-1]:
        if traits_of(link).training_only:
            raise InputError(
                f"augment {spec!r}: {link.func.__name__} gives pixels outside [0, 1], which other augmentations would clamp: "
                "put it last"
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
    """Whether an augmentation of the chain mixes labels. Raises InputError for an invalid chain."""
    return any("y" in _parameters(plugins.load("augment", part)) for part in _links(spec))


def noise_of(spec: str) -> float | None:
    """Return the standard deviation of the Gaussian noise at the end of a chain; None without noise. Raises InputError."""
    last = plugins.parse("augment", _links(spec)[-1])
    return float(plugins.resolved("augment", last)["sigma"]) if last.name == "gaussian" else None


def leaves_box(spec: str) -> bool:
    """Whether a chain gives pixels outside [0, 1]. Raises InputError for an invalid chain."""
    return any(traits_of(plugins.load("augment", part)).training_only for part in _links(spec))


def _links(spec: str) -> list[str]:
    parts = [part.strip() for part in re.split(r"\+(?![^()]*\))", spec)]  # at each + outside of parentheses
    closed = spec.count("(") == spec.count(")")
    if not closed or not all(parts):
        fault = "a link is empty" if closed else "its parentheses do not match"
        raise InputError(f"augment {spec!r}: {fault}: write it as name(option=value)+name")
    return parts


def coins(n: int, flip: bool, x: Tensor, generator: Generator) -> Tensor:
    """Draw one fair coin per sample, bool N. They are drawn even without `flip`, so that `flip` does not change later draws."""
    return (torch.rand(n, generator=generator, device=x.device) < 0.5) & flip


def box(x: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return the mask N,1,H,W of a rectangle in each image of x: rows [top, bottom) and columns [left, right), each N.

    What lies outside the image is cut off.
    """
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[2:])
    tall = (rows >= top[:, None]) & (rows < bottom[:, None])
    wide = (columns >= left[:, None]) & (columns < right[:, None])
    return (tall[:, :, None] & wide[:, None, :])[:, None]


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """Return y in the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _parameters(function: Callable) -> dict:
    return dict(inspect.signature(function).parameters)
