"""The folder of an artefact, which appears as a whole or not at all."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.core.folders import replaced_folder
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
    with replaced_folder(out) as part:
        yield part
