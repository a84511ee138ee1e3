"""Data sets, their splits, augmentations and batches."""

from typing import Any

from robustcls.core import plugins

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

    Empty for a user's own `module:callable`. Raises InputError for an unknown name.
    """
    name = plugins.parse("data", spec).name
    return {} if ":" in name else DEFAULT_RECIPE | (plugins.constant("data", name, "RECIPE") or {})
