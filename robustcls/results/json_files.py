"""Dataclasses as schema-versioned JSON, and back, without trusting what is read."""

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.core.config import union_parts
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write


def to_json(record: Any) -> str:
    whole = {"schema": record.schema, **dataclasses.asdict(record)}
    return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: str | Path, record: Any) -> None:
    with atomic_write(path) as part:
        # A path that is not UTF-8 reaches us with surrogates; as \\udcXX it stays JSON and reads back as it was.
        part.write_text(to_json(record), encoding="utf-8", errors="backslashreplace")


def read(path: str | Path, writer: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give the file that {writer} wrote") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: give the JSON file that {writer} wrote") from None


def parse(text: str, name: str, schema: str, writer: str) -> dict[str, Any]:
    try:
        whole = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({error}): give the file that {writer} wrote") from None
    found = whole.get("schema") if isinstance(whole, dict) else None
    if found != schema:
        raise InputError(f"{name} has schema {found!r}, not {schema!r}: give the file that {writer} wrote")
    return whole


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def build(hint: Any, value: Any, where: str) -> Any:
    """`value` (parsed JSON) as an instance of `hint`; unknown keys are ignored so that older readers take newer files."""
    origin = typing.get_origin(hint)
    parts = union_parts(hint)
    if len(parts) > 1:  # only `X | None` occurs
        return None if value is None else build(parts[0], value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = typing.get_type_hints(hint)
        given = {
            f.name: build(hints[f.name], value[f.name], f"{where}: {f.name}")
            for f in dataclasses.fields(hint)
            if f.name in value
        }
        missing = [
            f.name
            for f in dataclasses.fields(hint)
            if f.name not in given and f.default is f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise InputError(f"{where}: {missing[0]!r} is missing: the file is damaged or of another version")
        return hint(**given)
    if origin is list and isinstance(value, list):
        (item,) = typing.get_args(hint)
        return [build(item, element, f"{where}[{i}]") for i, element in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        item = typing.get_args(hint)[1]
        return {str(key): build(item, element, f"{where}.{key}") for key, element in value.items()}
    if hint is Any:
        return value
    if hint is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise InputError(f"{where}: {value!r:.40} is not {getattr(hint, '__name__', hint)}: the file is damaged")
