"""Read tensors from JSON, at a cost close to the size of the text even for malicious requests."""

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

HUGE = 10**15  # sizes from here on are not written out in messages


def read_json(text: bytes) -> Any:
    """Parse JSON. Raises ValueError.

    Garbage collection is off meanwhile: JSON has no reference cycles, and collecting among millions of small lists would take
    most of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return pydantic_core.from_json(text, allow_inf_nan=True)
    finally:
        if enabled:
            gc.enable()


def numbers_of(data: list, sizes: Sequence[int], name: str) -> NDArray[Any]:
    """Return the values of `data`, a flat or nested list, as a flat int64 or float64 array. Raises Refused.

    Lengths are checked first, level by level, so that no values are read of a list that is longer than `sizes` says.
    """
    count, lists = math.prod(sizes), 1
    for level, length in enumerate(sizes[:-1]):
        if not (data and isinstance(data[0], list)):
            break
        lists *= length
        if len(data) != lists:
            raise Refused("shape", f"`data` of {name} has {len(data)} lists, its shape says {whole(lists)}")
        inner, rest = (
            len(data[0]),
            math.prod(sizes[level + 1 :]),
        )  # the next size, or the product of the remaining sizes for a list that is flat from here on
        if inner not in (sizes[level + 1], rest) or not all(
            isinstance(one, list) and len(one) == inner for one in data
        ):
            raise Refused(
                "shape",
                f"`data` of {name} is not nested like its shape: give a flat list, or one nested like the shape",
            )
        data = list(chain.from_iterable(data))
        if inner == rest:
            break
    if len(data) != count:
        raise Refused("shape", f"{name} has {len(data)} values, its shape says {whole(count)}")
    with suppress(OverflowError):
        for kind in "qd":  # int64 if all are whole numbers, else float64
            with suppress(TypeError):
                values = numpy.frombuffer(array(kind, data), kind)
                if not _holds_truth(data, values):
                    return values
    raise Refused("values", f"`data` of {name} contains values that are not numbers")


def _holds_truth(data: list, values: NDArray[Any]) -> bool:
    """Whether `data` contains true or false, which Python would accept as the numbers 1 and 0."""
    places = numpy.flatnonzero((values == 0) | (values == 1)).tolist()
    return bool in set(map(type, map(data.__getitem__, places)))


def whole(number: int) -> str:
    """A size as text for messages."""
    return str(number) if number < HUGE else f"more than {HUGE}"
