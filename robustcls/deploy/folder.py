"""The folder of an artefact, which appears as a whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write, check_writable
from robustcls.results.artefact import MANIFEST


def check_place(out: Path, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Raises InputError where no artefact can be written; nothing is made. inputs: what is read, which it must not replace."""
    real = out.resolve()
    for one in map(Path, inputs):
        if one.exists() and one.resolve().is_relative_to(real):
            raise InputError(f"{out} would replace {one}, an input of this command: name another folder with `out`")
        if (one / MANIFEST).is_file() and real.is_relative_to(one.resolve()):
            raise InputError(f"{out} lies inside the artefact {one}: name a folder outside it with `out`")
    try:
        earlier = out.is_dir() and (not any(out.iterdir()) or (out / MANIFEST).is_file())
        if out.exists() and not overwrite and not earlier:
            raise InputError(
                f"{out} holds something else than an artefact: name another folder, or replace it with `overwrite`"
            )
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}: name another folder with `out`") from None
    check_writable(out / "any" if out.is_dir() else out)
    check_writable(real.parent / "any")


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that at the end takes the place of `out`, or is removed after an error."""
    check_place(out, overwrite)
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
            shutil.rmtree(before, ignore_errors=True) if before.is_dir() else before.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
