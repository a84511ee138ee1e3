"""Plug-ins, found by file name: a file in a plug-in folder defines a function of the same name; there is no registry.

A file with several plug-ins names them in `__all__`. A file whose name begins with `_` has helpers. Plug-ins are listed from
their source without importing them, so that `--help` and `robustcls list` do not wait for torch.
"""

import ast
import importlib
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from robustcls.core.config import convert, union_parts
from robustcls.core.errors import InputError, unknown

KINDS = {
    "attack": "robustcls/attacks",
    "augment": "robustcls/data/augmentations",
    "check": "robustcls/evaluation/checks",
    "data": "robustcls/data/sets",
    "attribution": "robustcls/attribution",
    "corruption": "robustcls/corruptions",
    "model": "robustcls/models/architectures",
    "objective": "robustcls/objectives",
    "prune": "robustcls/deploy/pruning",
    "quantizer": "robustcls/deploy/quantizers",
    "schedule": "robustcls/training/optimizer.py",
    "section": "robustcls/reporting/sections",
    "step": "robustcls/steps",
    "suite": "robustcls/evaluation/suites.py",
    "tracker": "robustcls/trackers",
    "tune": "robustcls/models/tuning",
    "wrapper": "robustcls/models/wrappers",
}
MEASURED = "robustcls/evaluation/measures/*/section*.py"  # sections of measures
PLACED = ("data",)  # kinds whose specs may contain a path: `folder:PATH`
_ROOT = Path(__file__).resolve().parents[2]
_SIMPLE = {"int": int, "float": float, "str": str, "bool": bool, "None": type(None)}


@dataclass(frozen=True)
class Option:
    """A keyword option of a plug-in, as its source declares it."""

    name: str
    type: str
    default: str


@dataclass(frozen=True)
class Plugin:
    """The description of a plug-in, read from its source without importing it."""

    kind: str
    name: str
    summary: str
    options: tuple[Option, ...]
    path: str  # relative to the parent folder of the package
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


AnyPlugin = str | Spec | Callable[..., Any]


def names(kind: str) -> list[str]:
    """Return the names of all plug-ins of a kind, sorted."""
    return sorted(_plugins(kind))


def describe(kind: str) -> list[Plugin]:
    """Return descriptions of all plug-ins of a kind, sorted by name, read from their source."""
    return [plugin for _, plugin in sorted(_plugins(kind).items())]


def constant(kind: str, name: str, variable: str) -> Any:
    """Return the literal that a plug-in's file assigns to a variable, without importing it; None without one.

    Raises InputError for an unknown plug-in.
    """
    if name not in _plugins(kind):
        raise unknown(kind, name, names(kind))
    return _assigned(ast.parse((_ROOT / _plugins(kind)[name].path).read_text(encoding="utf-8")), variable)


def load(kind: str, plugin: AnyPlugin) -> partial[Any]:
    """Return the plug-in function with its options bound. Its signature depends on the kind.

    Args:
        kind: one of KINDS.
        plugin: a spec, or a callable of the user, such as a function or a partial, which is returned unchanged.

    Raises:
        InputError: for an unknown name or option (suggesting the nearest one), or a value of the wrong type.
    """
    if not isinstance(plugin, (str, Spec)):
        return partial(plugin)
    spec = parse(kind, plugin)
    function = _function(kind, spec.name)
    return partial(function, *spec.args, **_converted(kind, spec, function))


def resolved(kind: str, plugin: AnyPlugin) -> dict[str, Any]:
    """Return all options of the plug-in with their values or defaults. Raises InputError.

    For a callable: the parameters of its signature with a default of a simple type, and the keywords of a partial.
    """
    spec = parse(kind, plugin)
    if not isinstance(plugin, (str, Spec)):
        parameters = _simple_parameters(partial(plugin).func)
        return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(spec.options)
    function = _function(kind, spec.name)
    return {p.name: p.default for p in _options(function)} | _converted(kind, spec, function)


def is_own(kind: str, plugin: AnyPlugin) -> bool:
    """Whether the plug-in is user code: a callable, or a spec `package.module:name`."""
    return not isinstance(plugin, (str, Spec)) or ":" in parse(kind, plugin).name


def with_options(kind: str, plugin: AnyPlugin, **options: Any) -> str | Callable[..., Any]:
    """Return the plug-in with some options replaced: a spec as text, or a partial of a callable."""
    if not isinstance(plugin, (str, Spec)):
        return partial(plugin, **options)
    spec = parse(kind, plugin)
    return str(Spec(spec.name, spec.args, tuple((dict(spec.options) | options).items())))


def parse(kind: str, plugin: AnyPlugin) -> Spec:
    """Return the name of a plug-in and the options that are given to it. Nothing is evaluated. Raises InputError.

    Values in a spec are literals, words or fractions such as 2/255. The name of a callable is its own or that of its class.
    The keywords of a partial are its options: JSON values unchanged, all others as their repr.
    """
    if isinstance(plugin, Spec):
        return plugin
    if not isinstance(plugin, str):
        if not callable(plugin):
            raise InputError(f"{kind} {plugin!r:.40} is neither a spec nor a function")
        bound = partial(plugin)  # flattens nested partials
        name = getattr(bound.func, "__name__", type(bound.func).__name__)
        return Spec(name, tuple(map(_plain, bound.args)), tuple((key, _plain(v)) for key, v in bound.keywords.items()))
    text = plugin.strip()
    head, colon, rest = text.partition(":")
    if colon and kind in PLACED and head in _plugins(kind):
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


def import_dotted(kind: str, module: str, attribute: str) -> Callable[..., Any]:
    """Import `attribute` of `module`. Raises InputError that names the part that failed."""
    spec = f"{kind} {module}:{attribute}"
    if not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"{spec}: {module!r} is not the name of a module: write it as package.module:name")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"{spec}: no module {error.name!r}: is its folder in PYTHONPATH?") from None
        raise
    if not hasattr(imported, attribute):
        raise InputError(f"{spec}: the module has no {attribute!r}")
    if not callable(getattr(imported, attribute)):
        raise InputError(f"{spec} is not callable: name a function")
    return getattr(imported, attribute)


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = _value(node.left), _value(node.right)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return left / right
        raise ValueError
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return repr(value)
    return value


def _function(kind: str, name: str) -> Callable[..., Any]:
    plugin = _plugins(kind).get(name)
    if plugin is not None:
        return getattr(importlib.import_module(plugin.module), name)
    module, colon, attribute = name.partition(":")
    if kind == "attack" and name in _plugins("suite"):
        raise InputError(f"{name} is a suite, a list of attacks without options, not one attack: name one, such as pgd")
    if not colon or module in _plugins(kind):
        raise unknown(kind, name, names(kind))
    return import_dotted(kind, module, attribute)


def _simple_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    return [
        parameter
        for parameter in parameters
        if all(part in _SIMPLE.values() or typing.get_origin(part) is Literal for part in union_parts(_hint(parameter)))
    ]


def _options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that a spec can set: keyword-only parameters of a simple type."""
    return [p for p in _simple_parameters(function) if p.kind is p.KEYWORD_ONLY]


def _hint(parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter or, without one, the type of its default.

    An annotation that is text (`from __future__ import annotations`) is converted to the union of simple types it names.
    """
    if parameter.annotation is parameter.empty:
        return type(parameter.default) if parameter.default is not None else None
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    parts = [_SIMPLE.get(part.strip()) for part in parameter.annotation.split("|")]
    return typing.Union[tuple(parts)] if all(parts) else None  # noqa: UP007


def _converted(kind: str, spec: Spec, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the values of a spec's options, converted to the types of the annotations. Raises InputError."""
    options = {p.name: p for p in _options(function)}
    takes = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in options.values())
    takes = f"{spec.name} takes {takes or 'no options'}"
    values = {}
    for name, value in spec.options:
        if name not in options:
            raise InputError(f"{unknown(f'option of {spec.name}', name, options)}; {takes}")
        try:
            values[name] = convert(_hint(options[name]), value)
        except ValueError as error:
            raise InputError(f"{kind} {spec.name}: {name}={error}; {takes}") from None
    missing = next((p.name for p in options.values() if p.default is p.empty and p.name not in values), None)
    if missing:
        raise InputError(f"{kind} {spec.name} needs {missing}: write it as {spec.name}({missing}=...)")
    return values


@cache
def _plugins(kind: str) -> dict[str, Plugin]:
    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    place = _ROOT / KINDS[kind]
    files = [place] if place.is_file() else sorted(place.glob("*.py"))
    if kind == "section":
        files += sorted(_ROOT.glob(MEASURED))
    return {plugin.name: plugin for file in files if file.name[0] != "_" for plugin in _read(kind, file)}


def _read(kind: str, file: Path) -> list[Plugin]:
    """Return the plug-ins that a source file defines: the function named like the file, or the names in `__all__`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    exported = [file.parent.name if file.stem == "section" else file.stem.removeprefix("section_")]
    path = file.relative_to(_ROOT)
    return [
        Plugin(
            kind=kind,
            name=name,
            summary=first_paragraph(ast.get_docstring(functions[name]) or ""),
            options=_declared(functions[name].args),
            path=path.as_posix(),
            module=".".join(path.with_suffix("").parts),
        )
        for name in _assigned(tree, "__all__") or exported
        if name in functions
    ]


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a docstring as one line."""
    return " ".join(docstring.split("\n\n")[0].split())


def _assigned(tree: ast.Module, variable: str) -> Any:
    """Return the literal that a module assigns to a variable; None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == variable:
            return ast.literal_eval(node.value)
    return None


def _declared(arguments: ast.arguments) -> tuple[Option, ...]:
    """Return the keyword-only parameters whose annotation is a simple type, a Literal, or a union of these."""
    options = [
        Option(one.arg, ast.unparse(one.annotation), ast.unparse(default) if default else "required")
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if one.annotation
    ]
    return tuple(o for o in options if all(p in _SIMPLE or p.startswith("Literal[") for p in o.type.split(" | ")))
