"""Finds the class names that another training code keeps in a file beside the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from robustcls.core.errors import InputError
from robustcls.models.foreign import mappings

KEYS = (
    "classes", "class_names", "classnames", "class_to_idx", "class_to_index", "class2idx", "idx_to_class", "idx2class",
    "index_to_class", "id2label", "label2id", "labels", "label_names", "names", "categories",
)  # fmt: skip


def find_class_names(content: Any, outputs: int | None, name: str) -> tuple[tuple[str, ...], list[str]]:
    """The names of the outputs that a file keeps, in the outputs' order, and what to say of them; empty where it has none.

    They are a list of names, or a mapping of names to numbers or of numbers to names, as many as there are outputs.
    outputs: of the head; None where unknown. Raises InputError where the file names them in two ways.
    """
    found = [
        (f"{path}.{key}" if path else str(key), names)
        for path, mapping in mappings(content)
        for key, value in mapping.items()
        if str(key).lower() in KEYS and (names := _in_order(value))
    ]
    fitting = [one for one in found if outputs is None or len(one[1]) in (outputs, 2 if outputs == 1 else outputs)]
    if not fitting:
        said = [
            f"{name}: names {len(names)} classes under {where!r}, not its {outputs} outputs" for where, names in found
        ]
        return (), said[:1]
    where, names = fitting[0]
    other = next((one for one in fitting if one[1] != names), None)
    if other is not None:
        raise InputError(
            f"{name} names its classes in two ways, under {where!r} and {other[0]!r}: leave one in the file"
        )
    return names, [f"{name}: its class names are those under {where!r}"]


def _in_order(value: Any) -> tuple[str, ...]:
    """Names by number; none where the value is something else."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if all(type(number) is int for number in value.values()):
            pairs = [(number, name) for name, number in pairs]
        if not all(_is_number(number) and isinstance(name, str) for number, name in pairs):
            return ()
        ordered = sorted((int(number), name) for number, name in pairs)
        return tuple(name for _, name in ordered) if [n for n, _ in ordered] == list(range(len(ordered))) else ()
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return ()


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 9)
