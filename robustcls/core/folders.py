"""Writes a folder so that it appears as a whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write


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
        part = Path(tempfile.mkdtemp(prefix=f".{out.name[:60]}.", dir=out.parent))
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
            shutil.rmtree(before, ignore_errors=True) if before.is_dir() else before.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
