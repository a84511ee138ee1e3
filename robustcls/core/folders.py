"""Writes a folder so that it appears as a whole or not at all."""

import contextlib
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write

PART = ".part"  # what the names of folders end with that are not yet in their place


@contextlib.contextmanager
def replaced_folder(out: Path, flag: str = "`out`") -> Iterator[Path]:
    """A temporary folder that at the end takes the place of `out`, or is removed after an error.

    flag: the option that named it. Raises InputError where it cannot be written.
    """
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
        raise InputError(cannot_write(out, error, flag)) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        for home in [] if done else made:
            with contextlib.suppress(OSError):
                home.rmdir()


def remove_leftovers(out: Path) -> None:
    """Removes what killed processes left of folders that were to take the place of `out`, which the caller has claimed; a
    folder that was just being replaced goes back to its place.
    """
    out = out.resolve()
    ours = re.compile(re.escape(_prefix(out)) + r"[a-z0-9_]{8}" + re.escape(PART) + r"(\.before)?")
    with contextlib.suppress(OSError):
        for left in [one for one in out.parent.iterdir() if ours.fullmatch(one.name)]:
            if left.suffix == ".before" and not out.exists():
                os.replace(left, out)
            else:
                _remove(left)


def _prefix(out: Path) -> str:
    """What the names of folders begin with that are to take the place of `out`, and of no other."""
    name = out.name if len(out.name) <= 60 else f"{out.name[:51]}-{zlib.crc32(os.fsencode(out.name)):08x}"
    return f".{name}."


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
