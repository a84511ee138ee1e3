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


# The RECIPE of a data set that is derived from another one, written NAME(OTHER, ...), and has the recipe of that one.
BASE = "base"


def recipe(spec: str) -> dict[str, Any]:
    """Return the training defaults of a data set: DEFAULT_RECIPE, updated with RECIPE of its file, which is not imported.

    Empty for a user's `module:callable`. Raises InputError for an unknown data set.
    """
    check_name(spec)
    name = parse(origin(spec)).name
    return {} if ":" in name else DEFAULT_RECIPE | (plugins.constant("data", name, "RECIPE") or {})


def tuned_recipe(spec: str) -> dict[str, Any]:
    """Return the options that were measured together for a data set, TUNED of its file; empty if there are none.

    Raises InputError for an unknown data set.
    """
    check_name(spec)
    name = parse(origin(spec)).name
    return {} if ":" in name else dict(plugins.constant("data", name, "TUNED") or {})


def check_name(spec: str) -> None:
    """Raise InputError for an unknown data set. Where the spec is the path of a folder, the message says what to write."""
    known = plugins.names("data")
    if spec not in known and Path(spec).expanduser().is_dir():
        raise InputError(f'data {spec!r} is a folder, not a data set: write it as "folder:{spec}"')
    parsed = parse(spec)
    if ":" not in parsed.name and parsed.name not in known:
        raise unknown("data", parsed.name, known)
    if is_made(parsed.name):
        check_name(parsed.args[0])


def parse(spec: str) -> plugins.Spec:
    """Parse a data spec. For a derived data set, `NAME(OTHER, option=value)`, the spec of the other one becomes the argument.

    Raises InputError where the other data set is not named.
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
    """Return the spec of the innermost data set of a derived one, and any other spec unchanged."""
    parsed = parse(spec)
    return origin(parsed.args[0]) if is_made(parsed.name) else spec


def is_made(name: str) -> bool:
    """Whether a data set is derived from another, as `NAME(OTHER, ...)`."""
    return name in plugins.names("data") and plugins.constant("data", name, "RECIPE") == BASE
