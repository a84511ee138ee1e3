"""Atomic writing of files: a temporary file beside the target, then a rename, so that no file is ever half-written.

Pipes, devices and files with several hard links are written in place instead. For a symbolic link, its target is replaced.
"""

import errno
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustcls.core.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFBLK: "a block device", stat.S_IFSOCK: "a socket"}  # not writable
TORCH_WRITER = (
    "inline_container",
    "PytorchStreamWriter",
    "iostream error",
)  # in the RuntimeError of torch.save on a full disk


@contextmanager
def atomic_write(path: str | Path, flag: str = "`out`") -> Iterator[Path]:
    """Yield a temporary path. At the end its content replaces that of `path`; after an error it is removed.

    flag: the option that names the file, for messages. Raises InputError if it cannot be written, as on a full disk.
    """
    path = Path(path)
    check_writable(path, flag)
    part: Path | None = None
    try:
        part = _begin_part(path)
        yield part
        _finish(part, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_WRITER):
            raise
        raise InputError(cannot_write(path, error, flag, part)) from None
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink()


def check_writable(path: str | Path, flag: str = "`out`", inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError if no file can be written at `path`. Nothing is created. Call this before a long run.

    flag: the option that names the file, for messages. inputs: files that are read and must not be overwritten.
    """
    path = Path(path)
    try:
        there = _look_at(path)
        home = next(parent for parent in Path(os.path.realpath(path)).parents if parent.exists())
    except OSError as error:  # a cycle of links, or a name that is too long
        raise InputError(cannot_write(path, error, flag)) from None
    if there is None:
        if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            raise InputError(f"cannot write {path}: {home} is no folder that can be written: name another with {flag}")
        return
    if kind := KINDS.get(stat.S_IFMT(there.st_mode)):
        raise InputError(f"cannot write {path}: it is {kind}: name a file with {flag}")
    if any(Path(one).exists() and path.samefile(one) for one in inputs):
        raise InputError(f"cannot write {path}: it is an input of this command: name another file with {flag}")
    guarded = stat.S_ISREG(there.st_mode) and not there.st_mode & 0o222  # root respects this, too
    if guarded or not os.access(path, os.W_OK):
        raise InputError(f"cannot write {path}: it is read-only: name another file with {flag}")


def is_stream(path: str | Path) -> bool:
    """Whether a path is a pipe, a device or an open descriptor such as /dev/stdout, so that nothing is kept in it."""
    try:
        there = _look_at(Path(path))
    except OSError:
        return False
    return there is not None and (not stat.S_ISREG(there.st_mode) or _descriptor_of(path) is not None)


def is_stdout(path: str | Path | None) -> bool:
    """Whether a path is the standard output of this process, so that messages must go to stderr."""
    try:
        return path is not None and os.path.samestat(os.stat(path), os.fstat(1)) and is_stream(path)
    except OSError:
        return False


def cannot_write(path: str | Path, error: Exception, flag: str = "`out`", part: Path | None = None) -> str:
    """Return the message for an error that occurred while `path` was written. part: its temporary file."""
    if isinstance(error, RuntimeError):
        error = _ask_the_disk(part) or error
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120] or type(error).__name__
    full = getattr(error, "errno", None) in FULL
    return f"cannot write {path}: {reason}: {'make room, or ' if full else ''}name another place with {flag}"


def sha256(path: str | Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look_at(path: Path) -> os.stat_result | None:
    """Return the status of a file, following links; None if there is none."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descriptor_of(path: str | Path) -> int | None:
    """Return the file descriptor of this process that a path refers to, such as 1 for /dev/stdout; None for others."""
    own = os.path.realpath("/proc/self/fd")
    path = os.path.abspath(path)
    for _ in range(8):
        head, name = os.path.split(path)
        if name.isdigit() and os.path.realpath(head) == own:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(head, os.readlink(path))
    return None


def _is_renamed_over(path: Path) -> bool:
    there, home = _look_at(path), os.path.dirname(os.path.realpath(path))
    return not is_stream(path) and (there is None or (there.st_nlink == 1 and os.access(home, os.W_OK | os.X_OK)))


def _begin_part(path: Path) -> Path:
    if not _is_renamed_over(path):
        import tempfile

        number, name = tempfile.mkstemp(prefix="robustcls-", suffix=".part")
        os.close(number)
        return Path(name)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name[:60]}.{os.getpid()}.part")


def _finish(part: Path, path: Path) -> None:
    if not _is_renamed_over(path):
        _pour(part, path)
        return
    target = Path(os.path.realpath(path))
    if target.exists():
        with suppress(OSError):
            shutil.copymode(target, part)
    with open(part, "rb") as file:  # otherwise a power cut could leave an empty file under the new name
        os.fsync(file.fileno())
    try:
        os.replace(part, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _pour(part, path)  # a file that is a mount point itself, as in a container


def _pour(part: Path, path: Path) -> None:
    """Copy a finished file into an existing file or stream. On a full disk, a file keeps its old content."""
    size, number = part.stat().st_size, _descriptor_of(path)
    if number is None:
        file = os.open(path, os.O_WRONLY)  # for a pipe, this waits for a reader
    else:
        sys.stdout.flush()
        file = os.dup(number)  # opening the path again would write a redirected file from its start
    with open(part, "rb") as source, open(file, "wb") as sink:
        is_file = number is None and stat.S_ISREG(os.fstat(file).st_mode)
        if is_file and size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        shutil.copyfileobj(source, sink)
        sink.flush()
        if is_file:
            os.ftruncate(file, size)
            os.fsync(file)


def _ask_the_disk(part: Path | None) -> OSError | None:
    """Return the OSError of a failed write that the writer did not report, by writing one more block; None without one."""
    try:
        with open(part or os.devnull, "ab") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None
