"""Data sets, their splits, augmentations and batches."""

from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.errors import InputError, unknown
from robustcls.core.wrapped import OPTION, at_commas

DEFAULT_RECIPE = {
    "norm": "linf",
    "eps": "8/255",
    "augment": "crop_flip",
    "epochs": 30,
    "lr": 0.1,
    "batch_size": 128,
    "adv": "pgd(steps=7)",
}


BASE = "base"  # as RECIPE: the data set is made of another one, whose recipe it has, and is written as NAME(OTHER, ...)


def recipe(spec: str) -> dict[str, Any]:
    """The training defaults of a data set: DEFAULT_RECIPE, and what its file has in RECIPE, read without importing it.

    Empty for a user's own `module:callable`. Raises InputError for an unknown one.
    """
    check_name(spec)
    name = parse(origin(spec)).name
    return {} if ":" in name else DEFAULT_RECIPE | (plugins.constant("data", name, "RECIPE") or {})


def check_name(spec: str) -> None:
    """Raises InputError for an unknown data set, with what to write where a folder was named."""
    known = plugins.names("data")
    if spec not in known and Path(spec).expanduser().is_dir():
        raise InputError(f'data {spec!r} is a folder, not a data set: write it as "folder:{spec}"')
    parsed = parse(spec)
    if ":" not in parsed.name and parsed.name not in known:
        raise unknown("data", parsed.name, known)
    if is_made(parsed.name):
        check_name(parsed.args[0])


def parse(spec: str) -> plugins.Spec:
    """As plugins.parse; of a data set that is made of another, `NAME(OTHER, option=value)`, the other's spec is its argument.

    Raises InputError where the other is not named.
    """
    name, _, inside = spec.strip().partition("(")
    made = name.partition(":")[0]
    if not is_made(made):
        return plugins.parse("data", spec)
    other, *options = at_commas(inside[:-1]) if name == made and inside.endswith(")") else [""]
    if not other.strip() or OPTION.match(other):
        raise InputError(f"data {spec!r} is made of another data set: name it first, as in {made}(digits)")
    return plugins.Spec(made, (other.strip(),), plugins.parse("data", f"{made}({', '.join(options)})").options)


def origin(spec: str) -> str:
    """The spec of the data set inside those that are made of another; of any other its own."""
    parsed = parse(spec)
    return origin(parsed.args[0]) if is_made(parsed.name) else spec


def is_made(name: str) -> bool:
    """Whether a data set is made of another."""
    return name in plugins.names("data") and plugins.constant("data", name, "RECIPE") == BASE
