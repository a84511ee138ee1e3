"""Plug-ins by file name: a file in a plug-in folder defines a function of the same name, and that is its registration.

A file that holds several names them in `__all__`. Listing reads the source without importing it, so that `--help` and
`robustcls list` do not wait for torch.
"""

import ast
import importlib
import inspect
import math
import operator
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

from robustcls.core.config import union_parts
from robustcls.core.errors import InputError, unknown

KINDS = {
    "attack": "robustcls/attacks",
    "augment": "robustcls/data/augmentations",
    "data": "robustcls/data/sets",
    "attribution": "robustcls/attribution",
    "corruption": "robustcls/corruptions",
    "model": "robustcls/models/architectures",
    "objective": "robustcls/objectives",
    "schedule": "robustcls/training/optimizer.py",
    "section": "robustcls/reporting/sections",
    "step": "robustcls/steps",
    "suite": "robustcls/evaluation/suites.py",
    "tracker": "robustcls/trackers",
}
PLACED = ("data",)  # the kinds whose plug-ins take a place: `folder:PATH`
_ROOT = Path(__file__).resolve().parents[2]
_SIMPLE = {int: "whole number", float: "number", str: "text", bool: "True or False"}


@dataclass(frozen=True)
class Option:
    """A keyword option of a plug-in, as its source declares it."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class Plugin:
    """What the source of a plug-in says, without importing it."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]
    path: str  # below the package's parent folder
    module: str

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(f'{option.name}={option.default}' for option in self.options)})"


@dataclass(frozen=True)
class Spec:
    """A parsed spec string: `pgd(steps=20)`, `folder:PATH`, `mylab.attacks:foo(k=3)`."""

    name: str
    args: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join([*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.options)])
        return f"{self.name}({inner})" if inner else self.name


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted."""
    return sorted(_plugins(kind))


def describe(kind: str) -> list[Plugin]:
    """All plug-ins of a kind, sorted by name, read from their source."""
    return [plugin for _, plugin in sorted(_plugins(kind).items())]


def load(kind: str, spec: str | Spec) -> Callable[..., Any]:
    """The plug-in function with the spec's options bound; called as its kind is called.

    Raises InputError for an unknown name or option (naming the nearest) and for a value of the wrong type.
    """
    spec = parse(kind, spec) if isinstance(spec, str) else spec
    function = _find(kind, spec.name)
    return partial(function, *spec.args, **_checked(kind, spec, function))


def parse(kind: str, text: str) -> Spec:
    """A spec string as a Spec. Raises InputError. Values are literals or fractions such as 2/255; nothing is evaluated."""
    text = text.strip()
    head, colon, rest = text.partition(":")
    if colon and head in _plugins(kind) and kind in PLACED:
        return Spec(head, (rest,))
    call, parenthesis, _ = text.partition("(")
    if not parenthesis:
        return Spec(text)
    try:
        tree = ast.parse(f"f({text[len(call) + 1 :]}", mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args or not isinstance(tree.func, ast.Name):
            raise ValueError
        options = tuple((keyword.arg or "**", _value(keyword.value)) for keyword in tree.keywords)
        if len(dict(options)) < len(options):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
        raise InputError(f"{kind} {text!r} is not a spec: write it as name(option=value, option=value)") from None
    return Spec(call.strip(), (), options)


def resolved(kind: str, spec: str | Spec) -> dict[str, Any]:
    """Every option of the plug-in with the value that the spec gives it: defaults filled in."""
    spec = parse(kind, spec) if isinstance(spec, str) else spec
    function = _find(kind, spec.name)
    defaults = {name: parameter.default for name, parameter, _ in _options(function)}
    return defaults | _checked(kind, spec, function)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = _value(node.left), _value(node.right)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left / right
        raise ValueError
    return ast.literal_eval(node)


def _find(kind: str, name: str) -> Callable[..., Any]:
    plugin = _plugins(kind).get(name)
    if plugin is not None:
        return getattr(importlib.import_module(plugin.module), name)
    module, colon, attribute = name.partition(":")
    if not colon or module in _plugins(kind):
        raise unknown(kind, name, names(kind))
    return import_dotted(kind, module, attribute)


def import_dotted(kind: str, module: str, attribute: str) -> Callable[..., Any]:
    """`attribute` of `module`, looked up in the current folder too. Raises InputError that says which part failed."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if not all(part.isidentifier() for part in module.split(".")):
        raise InputError(
            f"{kind} {module}:{attribute}: {module!r} is no module's name: write it as package.module:name"
        )
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise InputError(
                f"{kind} {module}:{attribute}: no module {error.name!r}: is its folder in PYTHONPATH?"
            ) from None
        raise
    found = getattr(imported, attribute, None)
    if found is None:
        raise InputError(f"{kind} {module}:{attribute}: the module has no {attribute!r}")
    if not callable(found):
        raise InputError(f"{kind} {module}:{attribute} is not callable: name a function")
    return found


def _options(function: Callable[..., Any]) -> list[tuple[str, inspect.Parameter, Any]]:
    """The keyword-only parameters that a spec can set: those annotated with a simple type."""
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    hints = {p.name: _hint(p.annotation) for p in keywords}
    return [(p.name, p, hints[p.name]) for p in keywords if _simple_types(hints[p.name])]


def _hint(annotation: Any) -> Any:
    """An annotation that is text (`from __future__ import annotations`) as the union of simple types that it names."""
    if not isinstance(annotation, str):
        return annotation
    known = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None)}
    parts = [known.get(part.strip()) for part in annotation.split("|")]
    return reduce(operator.or_, parts) if all(parts) else None


def _simple_types(hint: Any) -> tuple[type, ...]:
    parts = union_parts(hint)
    if typing.get_origin(hint) is typing.Literal:
        return (str,)
    return parts if all(part in _SIMPLE or part is type(None) for part in parts) else ()


def _checked(kind: str, spec: Spec, function: Callable[..., Any]) -> dict[str, Any]:
    options = {name: hint for name, _, hint in _options(function)}
    takes = ", ".join(
        name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter, _ in _options(function)
    )
    takes = takes or "no options"
    values = {}
    for name, value in spec.options:
        if name not in options:
            raise InputError(f"{unknown(f'option of {spec.name}', name, options)}; {spec.name} takes {takes}")
        allowed = _simple_types(options[name])
        if float in allowed and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        choices = typing.get_args(options[name]) if typing.get_origin(options[name]) is typing.Literal else ()
        endless = type(value) is float and not math.isfinite(value)
        if type(value) not in allowed or endless or (choices and value not in choices):
            want = " or ".join(map(repr, choices)) or " or ".join(_SIMPLE[t] for t in allowed if t in _SIMPLE)
            raise InputError(f"{kind} {spec.name}: {name}={value!r} is not a {want}; {spec.name} takes {takes}")
        values[name] = value
    for name, parameter, _ in _options(function):
        if parameter.default is parameter.empty and name not in values:
            raise InputError(f"{kind} {spec.name} needs {name}: write it as {spec.name}({name}=...)")
    return values


@cache
def _plugins(kind: str) -> dict[str, Plugin]:
    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    place = _ROOT / KINDS[kind]
    files = [place] if place.is_file() else sorted(place.glob("*.py"))
    return {plugin.name: plugin for file in files for plugin in _read(kind, file)}


def _read(kind: str, file: Path) -> list[Plugin]:
    """The plug-ins that a source file defines: the function named like the file, or those in `__all__`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    exported = [file.stem]
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            exported = list(ast.literal_eval(node.value))
    path = file.relative_to(_ROOT)
    module = ".".join(path.with_suffix("").parts)
    return [
        Plugin(kind, name, _summary(functions[name]), _declared(functions[name]), path.as_posix(), module)
        for name in exported
        if name in functions
    ]


def _summary(node: ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _declared(node: ast.FunctionDef) -> tuple[Option, ...]:
    return tuple(
        Option(argument.arg, ast.unparse(argument.annotation), ast.unparse(default) if default else "required")
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if argument.annotation and _is_simple(ast.unparse(argument.annotation))
    )


def _is_simple(annotation: str) -> bool:
    parts = set(annotation.split(" | ")) - {"int", "float", "str", "bool", "None"}
    return all(part.startswith("Literal[") for part in parts)
