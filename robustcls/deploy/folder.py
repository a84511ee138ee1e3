"""Create the folder of an artefact, atomically: either all of it is written or nothing."""

import contextlib
import fnmatch
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.core.folders import remove_leftovers, replaced_folder
from robustcls.results.artefact import DRIFT, MANIFEST, MODEL, REFERENCE, is_schema

# Files that robustcls writes into the folder of an artefact; any other file there belongs to the user.
OURS = (
    MANIFEST, MODEL, REFERENCE, DRIFT, "evaluation*.json", "evaluation*.json.partial", "evaluation*.npz", "report*.html",
    "MODEL_CARD*.md", "robustbench*.json", "explain", "deploy", ".evaluation*.json.*", ".report*.html.*",
)  # fmt: skip
SHOWN = 3  # largest number of file names in a message


def check_place(out: Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError if no artefact can be written to `out`; create nothing. inputs: files that must not be replaced."""
    real = out.resolve()
    for one in map(Path, inputs):
        if one.exists() and one.resolve().is_relative_to(real):
            raise InputError(f"{out} would replace {one}, an input of this command: name another folder with `out`")
        if _has_manifest(one) and real.is_relative_to(one.resolve()):
            raise InputError(f"{out} lies inside the artefact {one}: name a folder outside it with `out`")
    try:
        if out.exists() and not overwrite and (other := _something_else(out)):
            raise InputError(
                f"{out} is not an artefact folder ({other}): name another folder, or replace it with `overwrite`"
            )
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}: name another folder with `out`") from None
    check_writable(out / "any" if out.is_dir() else out)
    check_writable(real.parent / "any")


def _something_else(out: Path) -> str:
    """A description of what is at `out` instead of an artefact; "" for an artefact of any version and for an empty folder."""
    if not out.is_dir():
        return "it is a file"
    names = sorted(one.name for one in out.iterdir())
    other = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in OURS)]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        return ", ".join(other[:SHOWN]) + more
    if MANIFEST in names and not _has_manifest(out):
        return f"{MANIFEST} is of another program, or damaged"
    return "" if MANIFEST in names or not names else f"{', '.join(names[:SHOWN])} without {MANIFEST}"


def _has_manifest(folder: Path) -> bool:
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and is_schema(found.get("schema"))


@contextlib.contextmanager
def claimed(out: str | Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> Iterator[None]:
    """Claim the place of an artefact for this process, and remove what a killed export left there.

    Raises InputError like `check_place`, and if another process is exporting to the same place.
    """
    check_place(Path(out), overwrite, inputs)
    real = Path(out).resolve()
    with claim(
        real.with_name(f"{real.name}.artefact"), shown=out
    ):  # the claim is a file beside the folder, because the folder is replaced as a whole
        remove_leftovers(real)
        yield


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` at the end, or is removed after an error."""
    check_place(out, overwrite)
    with replaced_folder(out) as part:
        yield part
