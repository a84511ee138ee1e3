"""Records as JSON with a version, and back, without trusting what is read."""

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
    """A record that is a JSON file of its own."""

    WRITER: ClassVar[str]  # the command that writes such files, for error messages

    def to_json(self) -> str:
        """The JSON text: `schema` first, no NaN, ends with a newline."""
        record: Any = self
        whole = {"schema": record.schema, **dataclasses.asdict(record)}
        return json.dumps(whole, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Raises InputError where the file cannot be written, or its numbers contradict each other."""
        text = self.to_json()
        _read(type(self), text, str(path), "this program")  # what would not load again is not written
        with atomic_write(path) as part:
            # A path that is not UTF-8 reaches us with surrogates; as \\udcXX it stays JSON and reads back as it was.
            part.write_text(text, encoding="utf-8", errors="backslashreplace")

    @classmethod
    def from_json(cls, text: str, name: str = "evaluation") -> Self:
        """Raises InputError that names the first place where the text is not such a record."""
        record: Self = _read(cls, text, name, cls.WRITER)
        return record

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises InputError where the file is missing or is not such a record."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}: give the file that {cls.WRITER} wrote") from None
        except UnicodeDecodeError:
            raise InputError(f"{path} is not a text file: give the JSON file that {cls.WRITER} wrote") from None
        return cls.from_json(text, str(path))


def _read(kind: Any, text: str, name: str, writer: str) -> Any:
    """The record in a text. Keys that it does not know are ignored, so that older readers take newer files.

    Raises InputError, in one line, with the first place that is wrong.
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
            f"{name} has schema {schema!r}: an older robustcls wrote it, and this one reads {kind.schema!r}: make it anew, by "
            f"{writer}"
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
    """Whether it is a later version of a schema: robustcls/evaluation/2, where robustcls/evaluation/1 is known."""
    (kind, _, version), (same, _, reads) = str(schema).rpartition("/"), known.rpartition("/")
    return kind == same and version.isdecimal() and reads.isdecimal() and int(version) > int(reads)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _first(error: ValidationError) -> str:
    """`samples.2.label: '1' is not a valid integer: the file is damaged or of another version`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{place} is missing: the file is damaged or of another version"
    if first["type"] == "value_error":  # of `need`, which names the field
        return f"{place}.{first['ctx']['error']}: the file is damaged or of another version"
    return (
        f"{place}: {first['input']!r:.40}{first['msg'].replace('Input should be', ' is not', 1)}: the file is damaged "
        "or of another version"
    )
