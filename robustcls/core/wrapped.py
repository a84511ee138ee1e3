"""`--model` specs with wrappers around a model: `averaged(ckpt.pt, draws=20)`. Without PyTorch."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from robustcls.core import plugins
from robustcls.core.errors import InputError, unknown

_CALL = re.compile(r"([A-Za-z_][\w.]*(?::[A-Za-z_]\w*)?)\((.*)\)\Z", re.DOTALL)
_OPTION = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.+?)\s*\Z", re.DOTALL)


def split_wrappers(spec: str) -> tuple[str, list[plugins.Spec]]:
    """The spec of the model inside all wrappers, and the wrappers from the innermost on.

    A wrapper is `NAME(MODEL, option=value)`, of `models/wrappers` or `package.module:name` of your own. Values need no quotes,
    so that a layer is written as `layer=features.0`. Raises InputError for an unknown wrapper and one around nothing.
    """
    found = _CALL.match(spec.strip())
    if not found or Path(spec).exists() or "://" in spec:
        return spec, []
    name, inside = found.groups()
    model, *options = (part.strip() for part in _parts(inside))
    if ":" not in name and name not in plugins.names("wrapper"):
        raise unknown("wrapper of a model", name, plugins.names("wrapper"))
    if not model or _OPTION.match(model):
        raise InputError(f"{spec} is a wrapper around nothing: name the model first, as in {name}(ckpt.pt)")
    inner, wrappers = split_wrappers(model)
    texts = {
        option.name
        for one in plugins.describe("wrapper")
        if one.name == name
        for option in one.options
        if option.type.startswith("str")
    }
    options = [_quoted(option, texts) for option in options]
    return inner, [*wrappers, plugins.parse("wrapper", f"{name}({', '.join(options)})")]


def wrapped_name(name: str, wrappers: Iterable[plugins.Spec]) -> str:
    """What a model of this name is called inside the wrappers, from the innermost on."""
    for one in wrappers:
        name = f"{one.name}({', '.join([name, *(f'{key}={value}' for key, value in one.options)])})"
    return name


def inner_spec(spec: str) -> str:
    """The spec of the model inside all wrappers."""
    return split_wrappers(spec)[0]


def _parts(text: str) -> list[str]:
    """The text at its commas, those in brackets left."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _quoted(option: str, texts: set[str]) -> str:
    """An option whose value may stand without quotes, with them. texts: the names of those that are text in any case."""
    found = _OPTION.match(option)
    if not found:
        return option
    name, value = found.groups()
    try:
        plain = isinstance(ast.literal_eval(value), str) or name not in texts or value == "None"
    except (ValueError, SyntaxError):
        plain = False
    return option if plain else f"{name}={value!r}"
