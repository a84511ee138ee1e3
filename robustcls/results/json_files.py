"""Reading and writing records as versioned JSON files. Input files are not trusted."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write

adapter_of = cache(TypeAdapter)


class JsonFile:
    """A record that is stored in a JSON file of its own."""

    WRITER: ClassVar[str]  # the command that writes such files, for error messages

    def to_json(self) -> str:
        """Return the JSON text. It begins with `schema`, has no NaN and ends with a newline."""
        record: Any = self
        whole = {"schema": record.schema, **dataclasses.asdict(record)}
        return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file. Raises InputError if it cannot be written, or if its numbers contradict each other."""
        text = self.to_json()
        _read(type(self), text, str(path), "this program")  # never write a file that could not be loaded
        with atomic_write(path) as part:
            # A path that is not UTF-8 contains surrogates. Written as \\udcXX it is valid JSON and can be read back.
            part.write_text(text, encoding="utf-8", errors="backslashreplace")

    @classmethod
    def from_json(cls, text: str, name: str = "evaluation") -> Self:
        """Return the record in a text. Raises InputError that names the first invalid field."""
        record: Self = _read(cls, text, name, cls.WRITER)
        return record

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the record in a file. Raises InputError if the file is missing or invalid."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}: give the file that {cls.WRITER} wrote") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a text file: give the JSON file that {cls.WRITER} wrote") from None
        return cls.from_json(text, str(path))


def _read(kind: Any, text: str, name: str, writer: str) -> Any:
    """Return the record in a text. Unknown keys are ignored, so that older versions can read newer files.

    Raises InputError that names the first invalid field.
    """
    try:
        whole = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({error}): give the file that {writer} wrote") from None
    schema = whole.get("schema") if isinstance(whole, dict) else None
    if _is_newer(schema, kind.schema):
        raise InputError(
            f"{name} has schema {schema!r}: a newer robustcls wrote it, and this one reads {kind.schema!r}: update robustcls"
        )
    if _is_newer(kind.schema, str(schema)):
        raise InputError(
            f"{name} has schema {schema!r}: an older robustcls wrote it, and this one reads {kind.schema!r}: create it again "
            f"with {writer}"
        )
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


def _is_newer(schema: object, known: str) -> bool:
    """Whether a schema is a later version of `known`, such as robustcls/evaluation/2 of robustcls/evaluation/1."""
    (kind, _, version), (same, _, reads) = str(schema).rpartition("/"), known.rpartition("/")
    return kind == same and version.isdecimal() and reads.isdecimal() and int(version) > int(reads)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _first(error: ValidationError) -> str:
    """Return a message such as `samples.2.label: '1' is not a valid integer: the file is damaged or of another version`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing: the file is damaged or of another version"
    if first["type"] == "value_error":  # raised by `need`, which names the field
        return f"{place}.{first['ctx']['error']}: the file is damaged or of another version"
    return (
        f"{place}: {first['input']!r:.40}{first['msg'].replace('Input should be', ' is not', 1)}: the file is damaged "
        "or of another version"
    )
