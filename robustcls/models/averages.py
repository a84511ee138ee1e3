"""Averages of a network's weights in somebody else's file that lack buffers, dots or names."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

WORDS = ("ema", "avg", "averaged", "average", "swa", "shadow")  # in the name of an average of the weights
FOLLOWERS = ("optim", "sched", "scaler")  # parts of a file that hold tensors and are no weights
DEPTH = 4  # of mappings inside mappings


def is_named_average(place: str) -> bool:
    return any(word in WORDS for word in place.lower().replace(".", "_").split("_"))


def lists_of_tensors(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Sequence[Tensor]]]:
    """Every list of tensors that is named as an average, such as `shadow_params`, with its place in the file."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    for key, value in content.items():
        place = f"{path}.{key}" if path else str(key)
        if any(word in str(key).lower() for word in FOLLOWERS):
            continue
        if isinstance(value, (list, tuple)) and value and is_named_average(place):
            if all(isinstance(one, Tensor) for one in value):
                yield place, value
        else:
            yield from lists_of_tensors(value, place, depth + 1)


def undotted(path: str, state: Mapping[str, Tensor], needed: Sequence[str]) -> tuple[str, dict[str, Tensor]] | None:
    """The part of a mapping that keeps names without their dots, as LitEma does, by the names needed; and its prefix.

    None where there is none. Names that are the same with their dots do not count.
    """
    names = {key.replace(".", ""): key for key in needed if "." in key}
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        parent, dot, last = key.rpartition(".")
        name = next((names[last[start:]] for start in _starts(last) if last[start:] in names), None)
        if name is not None and is_named_average(f"{path}.{parent}"):
            found.setdefault(parent + dot, {})[name] = tensor
    return max(found.items(), key=lambda pair: len(pair[1]), default=None)


def by_order(values: Sequence[Tensor], raw: Mapping[str, Tensor], buffers: set[str]) -> dict[str, Tensor] | None:
    """A list of tensors by the names of the raw weights' parameters, in their order; None where a shape differs.

    raw: by the architecture's names, in the file's order.
    """
    names = [key for key in raw if key not in buffers]
    if [raw[key].shape for key in names] != [value.shape for value in values]:
        return None
    return dict(zip(names, values, strict=True))


def _starts(name: str) -> list[int]:
    """Where the name may begin: a wrapper's own, such as `model`, may stand before it."""
    return [0, *(len(word) for word in ("model", "module", "net", "backbone") if name.startswith(word))]
