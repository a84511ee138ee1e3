"""Data sets, one a file; how they are split, batched and augmented."""

import ast
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.errors import unknown


def recipe(spec: str) -> dict[str, Any]:
    """The training defaults that a data set's file declares as RECIPE, read from its source without importing it.

    Empty for a user's own `module:callable`. Raises InputError for an unknown name.
    """
    name = plugins.parse("data", spec).name
    if ":" in name:
        return {}
    if name not in plugins.names("data"):
        raise unknown("data", name, plugins.names("data"))
    file = Path(__file__).parent / "sets" / f"{name}.py"
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "RECIPE":
            return dict(ast.literal_eval(node.value))
    return {}
