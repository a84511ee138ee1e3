"""Records as JSON with a version, and back, without trusting what is read."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write

T = TypeVar("T")
adapter_of = cache(TypeAdapter)


def to_json(record: Any) -> str:
    whole = {"schema": record.schema, **dataclasses.asdict(record)}
    return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def write_json(path: str | Path, record: Any) -> None:
    text = to_json(record)
    from_json(type(record), text, str(path), "this program")  # what would not load again is not written
    with atomic_write(path) as part:
        # A path that is not UTF-8 reaches us with surrogates; as \\udcXX it stays JSON and reads back as it was.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def load(kind: type[T], path: str | Path, writer: str) -> T:
    """The record in a file. writer: of such files, named in errors. Raises InputError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give the file that {writer} wrote") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: give the JSON file that {writer} wrote") from None
    return from_json(kind, text, str(path), writer)


def from_json(kind: Any, text: str, name: str, writer: str) -> Any:
    """The record in a text. Keys that it does not know are ignored, so that older readers take newer files.

    Raises InputError, in one line, with the first place that is wrong.
    """
    try:
        whole = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({error}): give the file that {writer} wrote") from None
    schema = whole.get("schema") if isinstance(whole, dict) else None
    if schema != kind.schema:
        raise InputError(f"{name} has schema {schema!r}, not {kind.schema!r}: give the file that {writer} wrote")
    try:
        record = adapter_of(kind).validate_python(whole)
        if hasattr(record, "check"):
            record.check()
    except ValidationError as error:
        raise InputError(f"{name}: {_first(error)}") from None
    except ValueError as error:
        raise InputError(f"{name}: {error}: the file is damaged") from None
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _first(error: ValidationError) -> str:
    """`samples.2.label: '1' is not a valid integer: the file is damaged`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing: the file is damaged or of another version"
    if first["type"] == "value_error":  # of `need`, which names the field
        return f"{place}.{first['ctx']['error']}: the file is damaged"
    return (
        f"{place}: {first['input']!r:.40}{first['msg'].replace('Input should be', ' is not', 1)}: the file is damaged"
    )
