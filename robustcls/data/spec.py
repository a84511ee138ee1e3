"""What a data spec says, without reading the data: its name and options, its folder, how files become pixels."""

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
DECODING = ("size", "grey", "scale", "resize", "filter")  # options that say how a file becomes pixels
BARE_LIST = re.compile(r"(\blist=)([^\s'\",()][^'\",()]*)([,)])")


def may_have_trained_on(trained: str, data: str) -> bool:
    """Whether a model that was trained on one data spec may have seen images of another: the same one, or the same folder.

    A folder that is not here may be the same one, moved.
    """
    ours, theirs = parse_data(origin(data)), parse_data(origin(trained))
    if ours.name != theirs.name:
        return False
    if ours.name != "folder" or not (ours.args and theirs.args):
        return True
    here, there = (Path(one.args[0]).expanduser() for one in (ours, theirs))
    return not there.exists() or os.path.realpath(here) == os.path.realpath(there)


def folder_of(spec: str) -> tuple[Path, bool] | None:
    """The folder of a spec such as `folder:PATH`, and whether it is read `nested`; None of other data."""
    parsed = parse_data(spec)
    if parsed.name != "folder" or not parsed.args:
        return None
    return Path(parsed.args[0]).expanduser(), bool(dict(parsed.options).get("nested"))


def check_outside(spec: str, out: Path) -> None:
    """Raises InputError where what is to be written lies inside the folder that a spec reads, as one more class."""
    place = folder_of(origin(spec))
    if place is not None and out.resolve().is_relative_to(place[0].resolve()):
        raise InputError(
            f"{out} lies inside the data, {place[0]}, which would change them: name a folder outside with `out`"
        )


def list_of(spec: str) -> Path | None:
    """The file that names the images to read of a folder's spec; None where all are."""
    parsed = parse_data(spec)
    listed = dict(parsed.options).get("list") if parsed.name == "folder" else None
    return None if listed is None else Path(listed).expanduser()


def decoded_alike(data: str, trained: str) -> tuple[str, str]:
    """A folder's spec with the options of decoding that a model was trained with on a folder, where the spec leaves them
    open; and what is said of them, or ""."""
    theirs = parse_data(trained)
    return _with_decoding(data, dict(theirs.options) if theirs.name == "folder" else {})


def resized_alike(data: str, decoding: Mapping[str, Any]) -> tuple[str, str]:
    """The same with other options of decoding, where the spec says nothing of size, resize and filter."""
    return (data, "") if dict(parse_data(data).options).keys() & RESIZING else _with_decoding(data, decoding)


def _with_decoding(data: str, decoding: Mapping[str, Any]) -> tuple[str, str]:
    ours = parse_data(data)
    given = dict(ours.options)
    taken = tuple((key, value) for key, value in decoding.items() if key in DECODING and key not in given)
    if ours.name != "folder" or not taken:
        return data, ""
    said = ", ".join(f"{key}={value!r}" for key, value in taken)
    options = str(plugins.Spec("", (), (*ours.options, *taken)))
    return ":".join((ours.name, *ours.args)) + options, said


def decoding_of(data: str) -> dict[str, Any]:
    """What a folder's spec says of decoding, as keywords of `Form`: `scale`, `resize` and `filter` where it names them."""
    parsed = parse_data(data)
    options = dict(parsed.options) if parsed.name == "folder" else {}
    return {name: options[name] for name in ("scale", "resize", "filter") if options.get(name) is not None}


def check_named_by_file(spec: str, file: str) -> None:
    """Raises InputError where a file names, as its data, code that does not look like a data set.

    The file may come from anywhere, and it could name any function on this machine, such as shutil:rmtree.
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
    """As plugins.parse, and with options behind a path: `folder:PATH(size=64)`, unless such a file exists."""
    check_name(spec)
    parsed = parse(spec)
    if is_made(parsed.name) or not parsed.args or not parsed.args[0].endswith(")") or Path(parsed.args[0]).exists():
        return parsed
    path, _, options = parsed.args[0].rpartition("(")
    options = BARE_LIST.sub(r"\1'\2'\3", options)  # a path is no word, and needs no quotes here
    return plugins.Spec(parsed.name, (path,), plugins.parse("data", f"{parsed.name}({options}").options)
