"""Atomic writing of folders: a folder appears as a whole or not at all."""

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

PART = ".part"  # suffix of unfinished folders


@contextlib.contextmanager
def replaced_folder(out: Path, flag: str = "`out`") -> Iterator[Path]:
    """Yield a temporary folder that replaces `out` at the end, or is removed after an error.

    flag: the option that names `out`, for messages. Raises InputError if the folder cannot be written.
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
    """Remove temporary folders for `out` that killed processes left behind. The caller must have claimed `out`.

    A folder that was being replaced when the process was killed is moved back.
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
    """Return the prefix of the names of temporary folders for `out`; no other folder has the same one."""
    name = out.name if len(out.name) <= 60 else f"{out.name[:51]}-{zlib.crc32(os.fsencode(out.name)):08x}"
    return f".{name}."


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _replace(part: Path, out: Path) -> None:
    """Replace `out`, a folder or a file, by a folder. After an error, `out` is restored."""
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
