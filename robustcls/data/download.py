"""Downloads of data sets, complete or not at all."""

import http.client
import os
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import FULL, cannot_write

TIMEOUT = 10.0  # seconds without a byte, after which a download counts as failed


def data_folder(data_dir: str | None) -> Path:
    """Return the folder of downloaded data sets: data_dir, else $ROBUSTCLS_DATA, else ~/.cache/robustcls."""
    return Path(data_dir or os.environ.get("ROBUSTCLS_DATA") or "~/.cache/robustcls").expanduser()


@contextmanager
def arriving(name: str, folder: Path, url: str) -> Iterator[Path]:
    """Yield a temporary folder to download into. At the end its files move into `folder`; after an error, none of them does.

    Raises InputError, which names the download that failed and says where to put the file by hand.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise InputError(
            f"cannot write {folder} for the data set {name}: {error.strerror}: name another place with `data_dir`"
        ) from None
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets no timeout and would wait for ever
    try:
        yield part
        for file in sorted(path for path in part.rglob("*") if path.is_file()):
            if file.name.endswith(".tar.gz"):
                continue  # the archive was unpacked
            target = folder / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    except (OSError, RuntimeError, EOFError, zlib.error, tarfile.TarError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in FULL:
            raise InputError(cannot_write(folder, error, "`data_dir`")) from None
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"cannot download {name} from {url}: {reason}: check the network, or put the file into {folder} "
            "(another place: `data_dir`)"
        ) from None
    finally:
        socket.setdefaulttimeout(usual)
        shutil.rmtree(part, ignore_errors=True)
