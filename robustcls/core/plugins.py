"""Plug-ins by file name: a file in a plug-in folder defines a function of the same name, and that is its registration.

A file with several names them in `__all__`; one whose name begins with `_` holds helpers. Listing reads the source without
importing it, so that `--help` and `robustcls list` do not wait for torch.
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
# Sections of measures, each named as its folder, or section_NAME.py.
MEASURED = "robustcls/evaluation/measures/*/section*.py"
PLACED = ("data",)  # the kinds whose plug-ins take a place: `folder:PATH`
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


AnyPlugin = str | Spec | Callable[..., Any]


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted."""
    return sorted(_plugins(kind))


def describe(kind: str) -> list[Plugin]:
    """All plug-ins of a kind, sorted by name, read from their source."""
    return [plugin for _, plugin in sorted(_plugins(kind).items())]


def constant(kind: str, name: str, variable: str) -> Any:
    """The literal that a plug-in's file assigns to a variable, read without importing it; None without one.

    Raises InputError for an unknown name.
    """
    if name not in _plugins(kind):
        raise unknown(kind, name, names(kind))
    return _assigned(ast.parse((_ROOT / _plugins(kind)[name].path).read_text(encoding="utf-8")), variable)


def load(kind: str, plugin: AnyPlugin) -> partial[Any]:
    """The plug-in function with its options bound; called as its kind is called.

    Args:
        kind: one of KINDS.
        plugin: a spec, or a function, partial or other callable of the user's own, which is taken as it is.

    Raises:
        InputError: for an unknown name or option (naming the nearest) and for a value of the wrong type.
    """
    if not isinstance(plugin, (str, Spec)):
        return partial(plugin)
    spec = parse(kind, plugin)
    function = _function(kind, spec.name)
    return partial(function, *spec.args, **_converted(kind, spec, function))


def resolved(kind: str, plugin: AnyPlugin) -> dict[str, Any]:
    """Every option of the plug-in with its value: the default where none is given.

    Of a callable: the defaults of a simple type in its signature, and the keywords of a partial. Raises InputError.
    """
    spec = parse(kind, plugin)
    if not isinstance(plugin, (str, Spec)):
        parameters = _simple_parameters(partial(plugin).func)
        return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(spec.options)
    function = _function(kind, spec.name)
    return {p.name: p.default for p in _options(function)} | _converted(kind, spec, function)


def is_own(kind: str, plugin: AnyPlugin) -> bool:
    """Whether the plug-in is code of the user's: a callable, or named as `package.module:name`."""
    return not isinstance(plugin, (str, Spec)) or ":" in parse(kind, plugin).name


def with_options(kind: str, plugin: AnyPlugin, **options: Any) -> str | Callable[..., Any]:
    """The plug-in with some options set anew: of a spec its text, of a callable a partial."""
    if not isinstance(plugin, (str, Spec)):
        return partial(plugin, **options)
    spec = parse(kind, plugin)
    return str(Spec(spec.name, spec.args, tuple((dict(spec.options) | options).items())))


def parse(kind: str, plugin: AnyPlugin) -> Spec:
    """The name of a plug-in and the options that it is given; nothing is evaluated.

    Values in the text of a spec are literals, words or fractions such as 2/255. A callable is called by its own name, or its
    class's, and has the keywords of a partial as options: JSON's values as they are, others by their repr. Raises InputError.
    """
    if isinstance(plugin, Spec):
        return plugin
    if not isinstance(plugin, str):
        if not callable(plugin):
            raise InputError(f"{kind} {plugin!r:.40} is neither a spec nor a function")
        bound = partial(plugin)  # partials of partials become one
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
    """`attribute` of `module`, as Python imports it. Raises InputError that says which part failed."""
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
    except (TypeError, ValueError):  # some builtins have none
        return []
    return [
        parameter
        for parameter in parameters
        if all(part in _SIMPLE.values() or typing.get_origin(part) is Literal for part in union_parts(_hint(parameter)))
    ]


def _options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a spec can set: the keyword-only ones of a simple type."""
    return [p for p in _simple_parameters(function) if p.kind is p.KEYWORD_ONLY]


def _hint(parameter: inspect.Parameter) -> Any:
    """The annotation or, without one, the type of the default.

    One that is text (`from __future__ import annotations`) becomes the union of simple types that it names.
    """
    if parameter.annotation is parameter.empty:
        return type(parameter.default) if parameter.default is not None else None
    if not isinstance(parameter.annotation, str):
        return parameter.annotation
    parts = [_SIMPLE.get(part.strip()) for part in parameter.annotation.split("|")]
    return typing.Union[tuple(parts)] if all(parts) else None  # noqa: UP007


def _converted(kind: str, spec: Spec, function: Callable[..., Any]) -> dict[str, Any]:
    """The values of a spec's options, as the function's annotations want them. Raises InputError."""
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
    """The plug-ins that a source file defines: the function named like the file, or those in `__all__`."""
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
    """As one line."""
    return " ".join(docstring.split("\n\n")[0].split())


def _assigned(tree: ast.Module, variable: str) -> Any:
    """The literal that a module assigns to a variable; None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == variable:
            return ast.literal_eval(node.value)
    return None


def _declared(arguments: ast.arguments) -> tuple[Option, ...]:
    """The keyword-only parameters whose annotation is a simple type, a Literal, or a union of them."""
    options = [
        Option(one.arg, ast.unparse(one.annotation), ast.unparse(default) if default else "required")
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if one.annotation
    ]
    return tuple(o for o in options if all(p in _SIMPLE or p.startswith("Literal[") for p in o.type.split(" | ")))
