"""Options as dataclass fields, from which the command line and the TOML schema are made; their values checked."""

import dataclasses
import json
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from robustcls.core.errors import InputError, unknown

T = TypeVar("T")
_NONE = type(None)
LONGEST = 200  # characters of a value that an error shows


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with its help text.

    metadata: what only the command line needs: metavar, and the group of `--help`, where that is not its class's GROUP.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def resolve(config: type[T], *layers: Mapping[str, Any]) -> T:
    """An instance of the dataclass `config`; of several layers the later wins, and None in a layer says nothing.

    Raises InputError for an unknown name (naming the nearest) or a value of the wrong type.
    """
    hints = typing.get_type_hints(config)
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if name not in known:
                raise unknown("option", name, known)
            if value is None:
                continue
            try:
                values[name] = convert(hints[name], value)
            except ValueError as error:
                literals = [part for part in union_parts(hints[name]) if typing.get_origin(part) is typing.Literal]
                wrong = InputError(f"option {name}: {error}")
                raise unknown(name, value, typing.get_args(literals[0])) if literals else wrong from None
    return config(**values)


def read_toml(path: str | Path, flag: str = "`config`") -> dict[str, Any]:
    """The options of a TOML file; dashes in names are underscores. flag: what named it. Raises InputError."""
    return {name.replace("-", "_"): value for name, value in load_toml(path, flag).items()}


def load_toml(path: str | Path, flag: str) -> dict[str, Any]:
    """What a TOML file holds. flag: what named it. Raises InputError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give a TOML file with {flag}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def to_toml(config: Any) -> str:
    """A dataclass of scalars and tuples as TOML; None is left out, as TOML has no null."""
    values = dataclasses.asdict(config)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML's basic strings, numbers and booleans are written as JSON's, but for one character that TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def union_parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union such as `int | None`; the hint alone where it is no union."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def convert(hint: Any, value: Any) -> Any:
    """The value as `hint` wants it: int, float, str, bool, None, Literal, tuple[T, ...] or a union of them.

    Nothing is read from text, and True is no number; a whole number becomes a float, a list a tuple. Raises ValueError that
    says what it is not.
    """
    for part in union_parts(hint):
        arguments = typing.get_args(part)
        if typing.get_origin(part) is typing.Literal:
            if value in arguments:
                return value
        elif typing.get_origin(part) is tuple:
            if isinstance(value, (tuple, list)):
                return tuple(convert(arguments[0], item) for item in value)
        elif part is float:
            if type(value) in (int, float) and abs(value) <= sys.float_info.max:  # finite, too
                return float(value)
        elif type(value) is part:
            return value
    is_plain = isinstance(value, str | int | float | list | tuple | None) and len(repr(value)) < LONGEST
    shown = repr(value) if is_plain else type(value).__name__
    raise ValueError(f"{shown} is not {' or '.join(_words(part) for part in union_parts(hint) if part is not _NONE)}")


def _words(part: Any) -> str:
    if typing.get_origin(part) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(part)))
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(part, "a list")
