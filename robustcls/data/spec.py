"""Information from a data spec, without reading the data: name and options, folder, and how files are decoded."""

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.data import check_name, is_made, origin, parse

RESIZING = {"size", "resize", "filter"}
DECODING = ("size", "grey", "scale", "resize", "filter")  # options that determine how files are decoded
BARE_LIST = re.compile(r"(\blist=)([^\s'\",()][^'\",()]*)([,)])")


def may_have_trained_on(trained: str, data: str) -> bool:
    """Whether a model trained on the spec `trained` may have seen images of `data`: the same data set, or the same folder.

    Where the training folder does not exist, it may have been moved, so the answer is True.
    """
    evaluated, training = parse_data(origin(data)), parse_data(origin(trained))
    if evaluated.name != training.name:
        return False
    if evaluated.name != "folder" or not (evaluated.args and training.args):
        return True
    folder, training_folder = (Path(spec.args[0]).expanduser() for spec in (evaluated, training))
    return not training_folder.exists() or os.path.realpath(folder) == os.path.realpath(training_folder)


def folder_of(spec: str) -> tuple[Path, bool] | None:
    """Return the folder of a spec such as `folder:PATH` and its option `nested`; None for other data."""
    parsed = parse_data(spec)
    if parsed.name != "folder" or not parsed.args:
        return None
    return Path(parsed.args[0]).expanduser(), bool(dict(parsed.options).get("nested"))


def check_outside(spec: str, out: Path) -> None:
    """Raise InputError where `out` lies inside the folder of a data spec, where it would be read as another class."""
    place = folder_of(origin(spec))
    if place is not None and out.resolve().is_relative_to(place[0].resolve()):
        raise InputError(
            f"{out} lies inside the data, {place[0]}, which would change them: name a folder outside with `out`"
        )


def list_of(spec: str) -> Path | None:
    """Return the file of the option `list`, which names the images to read from a folder; None without that option."""
    parsed = parse_data(spec)
    listed = dict(parsed.options).get("list") if parsed.name == "folder" else None
    return None if listed is None else Path(listed).expanduser()


def decoded_alike(data: str, trained: str) -> tuple[str, str]:
    """Add the decoding options of the training folder to the spec of a folder, except those that the spec sets itself.

    Return the new spec and the added options as text, or "".
    """
    training = parse_data(trained)
    return _with_decoding(data, dict(training.options) if training.name == "folder" else {})


def resized_alike(data: str, decoding: Mapping[str, Any]) -> tuple[str, str]:
    """Like `decoded_alike`, with the given decoding options, but only where the spec sets neither size, resize nor filter."""
    return (data, "") if dict(parse_data(data).options).keys() & RESIZING else _with_decoding(data, decoding)


def _with_decoding(data: str, decoding: Mapping[str, Any]) -> tuple[str, str]:
    parsed = parse_data(data)
    given = dict(parsed.options)
    added = tuple((key, value) for key, value in decoding.items() if key in DECODING and key not in given)
    if parsed.name != "folder" or not added:
        return data, ""
    text = ", ".join(f"{key}={value!r}" for key, value in added)
    options = str(plugins.Spec("", (), (*parsed.options, *added)))
    return ":".join((parsed.name, *parsed.args)) + options, text


def decoding_of(data: str) -> dict[str, Any]:
    """Return the options `scale`, `resize` and `filter` that a folder's spec sets, as keyword arguments of `Form`."""
    parsed = parse_data(data)
    options = dict(parsed.options) if parsed.name == "folder" else {}
    return {name: options[name] for name in ("scale", "resize", "filter") if options.get(name) is not None}


def check_named_by_file(spec: str, file: str) -> None:
    """Raise InputError where a file names code as its data that does not look like a data set.

    The file may come from an untrusted source and could name any function on this machine, such as shutil:rmtree.
    """
    name = parse_data(origin(spec)).name
    if ":" not in name:
        return
    parameters = list(inspect.signature(plugins.load("data", name)).parameters)
    if parameters[:1] != ["split"]:
        raise InputError(
            f"{file} asks to run {name} for its data, whose first parameter is not called split: if you trust that code, "
            f"say so with `data={spec}`"
        )


def parse_data(spec: str) -> plugins.Spec:
    """Parse a data spec. Options may follow a path, as in `folder:PATH(size=64)`, unless a file of that name exists."""
    check_name(spec)
    parsed = parse(spec)
    if is_made(parsed.name) or not parsed.args or not parsed.args[0].endswith(")") or Path(parsed.args[0]).exists():
        return parsed
    path, _, options = parsed.args[0].rpartition("(")
    options = BARE_LIST.sub(r"\1'\2'\3", options)  # quote the bare path, which is not a valid option value
    return plugins.Spec(parsed.name, (path,), plugins.parse("data", f"{parsed.name}({options}").options)
