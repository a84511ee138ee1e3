"""Options as dataclass fields. The command line and the keys of TOML files are derived from them; values are checked."""

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
LONGEST = 200  # an error message shows a value only if its repr is shorter


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Return a dataclass field with its help text.

    metadata: only for the command line: metavar, and the group in `--help` if it differs from GROUP of the class.
    """
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


def resolve(config: type[T], *layers: Mapping[str, Any]) -> T:
    """Return an instance of the dataclass `config`. Later layers override earlier ones; None leaves an option unset.

    Raises InputError for an unknown name (suggesting the nearest one) or a value of the wrong type.
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
    """Return the options in a TOML file, with dashes in names replaced by underscores. Raises InputError.

    flag: the option that names the file, for messages.
    """
    return {name.replace("-", "_"): value for name, value in load_toml(path, flag).items()}


def load_toml(path: str | Path, flag: str) -> dict[str, Any]:
    """Return the content of a TOML file. flag: the option that names the file, for messages. Raises InputError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give a TOML file with {flag}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def to_toml(config: Any) -> str:
    """Return a dataclass of scalars and tuples as TOML text. None is left out, since TOML has no null."""
    values = dataclasses.asdict(config)
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML writes basic strings, numbers and booleans like JSON, except that it requires one more character to be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def union_parts(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union such as `int | None`, or the hint itself if it is not a union."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def convert(hint: Any, value: Any) -> Any:
    """Return the value in the type of `hint`: int, float, str, bool, None, Literal, tuple[T, ...] or a union of them.

    Whole numbers become floats and lists become tuples where the hint asks for it. Text is never parsed, and True is not a
    number. Raises ValueError with the expected type.
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
            if type(value) in (int, float) and abs(value) <= sys.float_info.max:  # also excludes inf and NaN
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
