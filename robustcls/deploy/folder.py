"""The folder of an artefact, which appears as a whole or not at all."""

import contextlib
import fnmatch
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write, check_writable
from robustcls.results.artefact import DRIFT, MANIFEST, MODEL, REFERENCE, is_schema

# What this program writes into an artefact's folder; whatever else lies there is somebody's own.
OURS = (
    MANIFEST, MODEL, REFERENCE, DRIFT, "evaluation*.json", "evaluation*.json.partial", "evaluation*.npz", "report*.html",
    "MODEL_CARD*.md", "robustbench*.json", "explain", "deploy", ".evaluation*.json.*", ".report*.html.*",
)  # fmt: skip
SHOWN = 3  # names in a message
PART = ".export"  # what the names of folders end with that are not yet in their place


def check_place(out: Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raises InputError where no artefact can be written; nothing is made. inputs: what is read, which it must not replace."""
    real = out.resolve()
    for one in map(Path, inputs):
        if one.exists() and one.resolve().is_relative_to(real):
            raise InputError(f"{out} would replace {one}, an input of this command: name another folder with `out`")
        if _has_manifest(one) and real.is_relative_to(one.resolve()):
            raise InputError(f"{out} lies inside the artefact {one}: name a folder outside it with `out`")
    try:
        if out.exists() and not overwrite and (other := _something_else(out)):
            raise InputError(
                f"{out} holds something else than an artefact ({other}): name another folder, or replace it with `overwrite`"
            )
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}: name another folder with `out`") from None
    check_writable(out / "any" if out.is_dir() else out)
    check_writable(real.parent / "any")


def _something_else(out: Path) -> str:
    """What is there besides an artefact, in words; nothing for an artefact, of any version, and for an empty folder."""
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
    """Holds the place of an artefact for this process, and tidies up what a killed export left there.

    Raises InputError as `check_place`, and where another process exports to it.
    """
    check_place(Path(out), overwrite, inputs)
    real = Path(out).resolve()
    with claim(
        real.with_name(f"{real.name}.artefact"), shown=out
    ):  # a name beside it: the folder is replaced as a whole
        _tidy(real)
        yield


def _prefix(out: Path) -> str:
    """What the names of folders begin with that are to take the place of `out`, and of no other."""
    name = out.name if len(out.name) <= 60 else f"{out.name[:51]}-{zlib.crc32(os.fsencode(out.name)):08x}"
    return f".{name}."


def _tidy(out: Path) -> None:
    """Removes what killed exports left; an earlier artefact that one was just replacing goes back to its place."""
    ours = re.compile(re.escape(_prefix(out)) + r"[a-z0-9_]{8}" + re.escape(PART) + r"(\.before)?")
    with contextlib.suppress(OSError):
        for left in [one for one in out.parent.iterdir() if ours.fullmatch(one.name)]:
            if left.suffix == ".before" and not out.exists():
                os.replace(left, out)
            else:
                _remove(left)


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that at the end takes the place of `out`, or is removed after an error."""
    check_place(out, overwrite)
    out = out.resolve()
    made = [home for home in out.parents if not home.exists()]  # the deepest first
    part, done = None, False
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=_prefix(out), suffix=PART, dir=out.parent))
        yield part
        part.chmod(0o777 & ~_umask())
        _replace(part, out)
        done = True
    except OSError as error:
        raise InputError(cannot_write(out, error)) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        for home in [] if done else made:
            with contextlib.suppress(OSError):
                home.rmdir()


def _replace(part: Path, out: Path) -> None:
    """Puts a folder into the place of another, or of a file; on an error the other is where it was."""
    if not out.exists():
        os.replace(part, out)
        return
    before = part.with_name(f"{part.name}.before")
    os.replace(out, before)
    try:
        os.replace(part, out)
    except BaseException:
        os.replace(before, out)
        raise
    finally:
        if out.exists():
            _remove(before)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
