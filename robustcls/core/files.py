"""Files that are never half-written: a temporary name beside the target, then a rename."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustcls.core.errors import InputError


@contextmanager
def replacing(path: str | Path, flag: str = "--out") -> Iterator[Path]:
    """Yields a temporary path beside `path`; at the end it takes the place of `path`, or is removed after an error.

    flag: the option that named it. Raises InputError where the folder cannot be made or written.
    """
    path = Path(path)
    check_writable(path, flag)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb") as file:  # or a power cut could leave the new name without the content
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}: name another place with {flag}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def check_writable(path: str | Path, flag: str = "--out", inputs: Iterable[str | Path] = ()) -> None:
    """Raises InputError where a file cannot be written at `path`, and makes nothing: ask before a long run.

    flag: the option that named it. inputs: files that are read, which it must not replace.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder: name a file with {flag}")
    if path.exists() and any(Path(one).exists() and path.samefile(one) for one in inputs):
        raise InputError(f"cannot write {path}: it is an input of this command: name another file with {flag}")
    home = next(parent for parent in path.absolute().parents if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {home} is no folder that can be written: name another with {flag}")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
