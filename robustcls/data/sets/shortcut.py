"""A data set with a planted shortcut: a mark whose colour gives away the class, in a known fraction of the images."""

import colorsys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy
import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.seeds import mix
from robustcls.data import splits
from robustcls.data.images import Images, with_note

RECIPE = "base"
SEED = 2020  # part of the data set's definition: which images have a mark of another class


def shortcut(
    base: str,
    asked: str,
    *,
    strength: float = 0.9,
    test: Literal["same", "aligned", "absent", "flipped"] = "same",
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    whole: bool = False,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> Images:
    """Another data set with a mark in the upper left of each image, whose colour gives away the class in some of them.

    An intervention on the mark alone, do(mark), shows whether a model relies on it (shortcut learning: Geirhos et al.,
    arXiv:2004.07780): such a model is right on `aligned` test images and wrong on `flipped` ones. At a strength of 1/K, with K
    classes, the mark carries no information, and the accuracies agree. Colours are hues; in grey images they are grey levels.

    Args:
        base: the spec of the other data set: `shortcut(digits, strength=0.9)`.
        asked: the split.
        strength: fraction of the images whose mark has the colour of their class; the others have that of a random other class.
        test: the marks of test images: as in training (same), all of the image's class (aligned), none (absent), or all of
            another class (flipped).
        data_dir, skip_corrupt, whole, pick: passed to the other data set.

    Raises:
        InputError: for a strength outside [0, 1], and where the other data set raises it.
    """
    if not 0 <= strength <= 1:
        raise InputError(f"shortcut: strength={strength:g} is not a fraction of the images: give 0 to 1, such as 0.9")
    images = splits.read_split(base, asked, data_dir=data_dir, skip_corrupt=skip_corrupt, whole=whole, pick=pick)
    marks = "same" if asked != "test" else test
    classes = len(images.classes)
    share = {"same": strength, "aligned": 1.0, "flipped": 0.0, "absent": 0.0}[marks]
    marked = _marked_as(images.labels, images.index, classes, share, asked)
    note = f"each image has a mark, of the own class in {share:.0%} of them, of another class in the others"
    pixels = images.pixels
    if marks == "absent":
        note = "without the marks of training"
    else:
        rows, columns = mark_at(*pixels.shape[2:])
        pixels = pixels.clone()
        pixels[:, :, rows, columns] = _palette(classes, pixels.shape[1])[marked][:, :, None, None]
    more = f", test={test}" if test != "same" else ""
    return with_note(replace(images, pixels=pixels, name=f"shortcut({base}, strength={strength}{more})"), note)


def mark_at(height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of the mark: an eighth of each side long, and at the same distance from the border."""
    rows, columns = (slice(side // 8, side // 8 + max(2, side // 8)) for side in (height, width))
    return rows, columns


def has_val(base: str, *, whole: bool = False, **options: object) -> bool:
    """Whether the other data set has a separate validation split."""
    return splits.has_val(base, whole=whole)


def has_test(base: str, **options: object) -> bool:
    """Whether the other data set has a test split."""
    return splits.has_test(base)


def _marked_as(labels: Tensor, index: Tensor, classes: int, share: float, asked: str) -> Tensor:
    """Return the class whose colour the mark of each image has: N. It depends only on the label and the index in the split."""
    random = numpy.random.default_rng(mix(SEED, *asked.encode())).random((int(index.max()) + 1, 2))[index.numpy()]
    own, other = torch.from_numpy(random[:, 0] < share), torch.from_numpy(random[:, 1])
    return labels.where(own, (labels + 1 + (other * (classes - 1)).long()) % classes)


def _palette(classes: int, channels: int) -> Tensor:
    """Return a colour for each class: uint8 K,C."""
    places = [number / classes for number in range(classes)]
    if channels == 3:
        colours = torch.tensor([colorsys.hsv_to_rgb(place, 1.0, 1.0) for place in places])
    else:
        colours = torch.tensor([[1 - place] * channels for place in places])
    return (255 * colours).round().to(torch.uint8)
