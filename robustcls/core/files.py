"""Files that are never half-written: a temporary name beside the target, then a rename."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robustcls.core.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; at the end it takes the place of `path`, or is removed after an error.

    Raises InputError where the folder cannot be made or written.
    """
    path = Path(path)
    check_writable(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with open(part, "rb") as file:  # or a power cut could leave the new name without the content
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}: name another place with --out") from None
    finally:
        with suppress(OSError):
            part.unlink()


def check_writable(path: str | Path) -> None:
    """Raises InputError where a file cannot be written at `path`, and makes nothing: ask before a long run."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder: name a file with --out")
    home = next(parent for parent in path.absolute().parents if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {home} is no folder that can be written: name another with --out")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
