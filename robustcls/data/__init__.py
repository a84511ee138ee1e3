"""Data sets, their splits, augmentations and batches."""

from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.errors import InputError, unknown

DEFAULT_RECIPE = {
    "norm": "linf",
    "eps": "8/255",
    "augment": "crop_flip",
    "epochs": 30,
    "lr": 0.1,
    "batch_size": 128,
    "adv": "pgd(steps=7)",
}


def recipe(spec: str) -> dict[str, Any]:
    """The training defaults of a data set: DEFAULT_RECIPE, and what its file has in RECIPE, read without importing it.

    Empty for a user's own `module:callable`. Raises InputError for an unknown one.
    """
    check_name(spec)
    name = plugins.parse("data", spec).name
    return {} if ":" in name else DEFAULT_RECIPE | (plugins.constant("data", name, "RECIPE") or {})


def check_name(spec: str) -> None:
    """Raises InputError for an unknown data set, with what to write where a folder was named."""
    known = plugins.names("data")
    if spec not in known and Path(spec).expanduser().is_dir():
        raise InputError(f'data {spec!r} is a folder, not a data set: write it as "folder:{spec}"')
    name = plugins.parse("data", spec).name
    if ":" not in name and name not in known:
        raise unknown("data", name, known)
