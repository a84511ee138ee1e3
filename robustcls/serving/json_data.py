"""Tensors in JSON: read so that what a stranger made huge costs little more than its bytes."""

import gc
import math
from array import array
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy
import pydantic_core
from numpy.typing import NDArray

from robustcls.serving.refused import Refused

HUGE = 10**15  # a size that is not worth its digits


def read_json(text: bytes) -> Any:
    """Raises ValueError. Meanwhile Python looks for no cycles, which JSON has none of: of millions of small lists that would
    take most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        return pydantic_core.from_json(text, allow_inf_nan=True)
    finally:
        if enabled:
            gc.enable()


def numbers_of(data: list, sizes: Sequence[int], name: str) -> NDArray[Any]:
    """The values of `data`, flat or nested, as int64 or float64, one after another. Raises Refused.

    Lengths are compared first, level by level: no value of what is longer than `sizes` says is looked at.
    """
    count, lists = math.prod(sizes), 1
    for level, length in enumerate(sizes[:-1]):
        if not (data and isinstance(data[0], list)):
            break
        lists *= length
        if len(data) != lists:
            raise Refused("shape", f"`data` of {name} holds {len(data)} lists, its shape says {whole(lists)}")
        inner, rest = len(data[0]), math.prod(sizes[level + 1 :])  # the next size, or all that are left as a flat list
        if inner not in (sizes[level + 1], rest) or not all(
            isinstance(one, list) and len(one) == inner for one in data
        ):
            raise Refused("shape", f"`data` of {name} is not nested as its shape: give a flat list, or one that is")
        data = list(chain.from_iterable(data))
        if inner == rest:
            break
    if len(data) != count:
        raise Refused("shape", f"{name} holds {len(data)} values, its shape says {whole(count)}")
    with suppress(OverflowError):
        for kind in "qd":  # whole numbers, or any
            with suppress(TypeError):
                values = numpy.frombuffer(array(kind, data), kind)
                if not _holds_truth(data, values):
                    return values
    raise Refused("values", f"`data` of {name} holds something else than numbers")


def _holds_truth(data: list, values: NDArray[Any]) -> bool:
    """Whether true or false are among them: as numbers, these are 1 and 0."""
    places = numpy.flatnonzero((values == 0) | (values == 1)).tolist()
    return bool in set(map(type, map(data.__getitem__, places)))


def whole(number: int) -> str:
    """A size as messages show it."""
    return str(number) if number < HUGE else f"more than {HUGE}"
