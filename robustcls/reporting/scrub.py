"""Remove home folders, absolute paths and user names, and pixels on request, from everything that is published."""

import dataclasses
import re
from typing import Any

from robustcls.core.names import without_names
from robustcls.results.records import Array, Evaluation

_ROOTED = r"(?:file:/{2,3}|~[\w.-]*/|/|[A-Za-z]:[\\/]|\\\\)"
_QUOTED = re.compile(rf"(?P<quote>['\"])(?P<path>{_ROOTED}[^'\"\n]*)(?P=quote)")
_BARE = re.compile(
    rf"(?<![\w/\\.~:-])(?P<path>{_ROOTED}(?:\\ |[^\s'\"<>|,;:()\[\]])+)|(?<=\w:)(?P<spec>/(?!/)[^\s'\"<>|,;:()]+)"
)
_HOME = re.compile(r"^(?:file:/{2,3})?(?:/home/|/Users/|[A-Za-z]:[\\/]Users[\\/])(?P<user>[^/\\]+)[/\\]?$|^/root/?$")
_USERS = re.compile(r"(?:/home/|/Users/|[A-Za-z]:[\\/]Users[\\/])(?P<user>[^/\\\s'\":;,]+)")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_KEPT = ("classes", "schema", "sha256", "data_sha256")  # fields without paths: a class name may contain a slash


def scrub(evaluation: Evaluation) -> Evaluation:
    """Return a copy without home folders, absolute paths or user names in its texts; of a path, the last part is kept."""
    users = {match["user"] for text in _texts(evaluation) for match in _USERS.finditer(text)}
    cleaned: Evaluation = _clean(evaluation, users)
    return cleaned


def without_arrays(evaluation: Evaluation) -> Evaluation:
    """Return a copy without pixels and maps in its gallery: the arrays become empty, so that the JSON can still be loaded."""
    if evaluation.gallery is None:
        return evaluation
    examples = [
        dataclasses.replace(
            example,
            clean=_emptied(example.clean),
            adversarial=_emptied(example.adversarial),
            perturbation=_emptied(example.perturbation),
            maps=[dataclasses.replace(one, values=_emptied(one.values)) for one in example.maps],
        )
        for example in evaluation.gallery.examples
    ]
    return dataclasses.replace(evaluation, gallery=dataclasses.replace(evaluation.gallery, examples=examples))


def without_file_names(evaluation: Evaluation) -> Evaluation:
    """Return a copy without the file names of the samples."""
    data = dataclasses.replace(evaluation.data, note=without_names(evaluation.data.note), skipped=[])
    samples = [dataclasses.replace(sample, file=None) for sample in evaluation.samples]
    return dataclasses.replace(evaluation, data=data, samples=samples)


def scrub_text(text: str, users: frozenset[str] | set[str] = frozenset()) -> str:
    """Return the text with each absolute path cut to its last part, a home folder to ~, and `users` removed from paths."""
    text = _CREDENTIALS.sub("", text)
    text = _QUOTED.sub(lambda match: match["quote"] + _last(match["path"]) + match["quote"], text)
    text = _BARE.sub(lambda match: _last(match["path"] or match["spec"]), text)
    for user in sorted(users):
        text = re.sub(rf"(?<![\w-]){re.escape(user)}(?=[/\\@]|$)|(?<=[/\\=@]){re.escape(user)}(?![\w-])", "~", text)
    return text


def _last(path: str) -> str:
    if _HOME.match(path):
        return "~"
    parts = [part for part in re.split(r"[/\\](?! )", path) if part]
    # A path with one part, such as "/255" or "/data", says nothing about its owner.
    return path if len(parts) < 2 and not path.startswith("~") else parts[-1]


def _emptied(array: Array) -> Array:
    return Array([0] * len(array.shape), array.dtype, array.scale, "eNoDAAAAAAE=")  # no bytes, compressed by zlib


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Array):
        return []
    if dataclasses.is_dataclass(value):
        value = _fields(value)
    if isinstance(value, dict):
        value = list(value.values())
    return [text for one in value for text in _texts(one)] if isinstance(value, (list, tuple)) else []


def _fields(record: Any) -> dict[str, Any]:
    """The fields of a record that are written to files; an evaluation's `examples` are not among them."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def readable(text: str) -> str:
    """The text without lone surrogates, which come from paths that are not UTF-8 and cannot be written to a page."""
    return text.encode("utf-8", "replace").decode()


def _clean(value: Any, users: set[str] | None, whole: bool = False) -> Any:
    """users: None keeps paths. whole: the text is a single value, not a command, so a path in it may contain spaces."""
    if isinstance(value, str):
        text = readable(value)
        if users is None:
            return text
        return scrub_text(_last(text) if whole and re.match(_ROOTED, text) and "\n" not in text else text, users)
    if value is None or isinstance(value, (int, float, Array)):
        return value
    if isinstance(value, dict):
        return {readable(key): _clean(one, users, True) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(one, users, whole) for one in value]
    fields = {name: _clean(one, None if name in _KEPT else users) for name, one in _fields(value).items()}
    return dataclasses.replace(value, **fields)
