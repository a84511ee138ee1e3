"""Locks that prevent two runs from writing to the same output at the same time.

They use flock on a hidden file beside the output. The lock ends with its process, so that the lock file of a killed run
does not block other runs.
"""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import FULL, cannot_write, check_writable, is_stream

try:
    import fcntl
except ImportError:  # not a POSIX system: no locking
    fcntl = None  # type: ignore[assignment]


@contextmanager
def claim(
    path: str | Path, flag: str = "`out`", *, folder: bool = False, shown: str | Path | None = None
) -> Iterator[None]:
    """Lock `path`, a file or a folder, for this process, and create missing folders.

    flag: the option that names the path, for messages. shown: the path to show in messages. Raises InputError, which names
    the other run, if `path` is locked. Pipes and devices are not locked, nor are files on file systems without locks.
    """
    path = Path(path)
    check_writable(path / "any" if folder else path, flag)
    if fcntl is None or (not folder and is_stream(path)):
        yield
        return
    real = Path(os.path.realpath(path))
    lock = real / ".lock" if folder else real.with_name(f".{real.name}.lock")
    made = [home for home in lock.parents if not home.exists()]  # the deepest first
    file = _acquire(lock, Path(shown or path), flag)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                lock.unlink()  # before the lock is released, so that nobody locks a file that is about to vanish
            os.close(file)
        for home in made:
            with suppress(OSError):
                home.rmdir()  # if nothing was written


def _acquire(lock: Path, path: Path, flag: str) -> int | None:
    """Return the descriptor of the locked file; None if no lock is possible in the folder."""
    for _ in range(100):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except PermissionError:  # the file of another user
                file = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another run removed a folder that it had created
            continue
        except OSError as error:
            if error.errno in FULL:
                raise InputError(cannot_write(path, error, flag)) from None
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            os.close(file)
            if holder.startswith(f"process {os.getpid()} on {platform.node()} "):
                raise InputError(f"{path} is to hold two files of this command: give each its own place") from None
            raise InputError(
                f"{path} is being written by {holder}: wait for it, or name another place with {flag}"
            ) from None
        except OSError:
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), lock.stat()):
                since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                with suppress(OSError):
                    os.ftruncate(file, 0)
                    os.pwrite(file, f"process {os.getpid()} on {platform.node()} since {since}\n".encode(), 0)
                return file
        os.close(file)  # the previous owner has just removed this file
    return None


def _holder(file: int) -> str:
    """Return the line that the owner of the lock wrote into the file; wait briefly, since it may not be written yet."""
    for _ in range(20):
        if text := os.pread(file, 300, 0).decode("utf-8", "replace"):
            return " ".join(text.split())
        time.sleep(0.01)
    return "another process"
