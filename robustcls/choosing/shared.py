"""Work that several processes share: every result is a file, which is made once, by the first process that claims it."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.results.json_files import JsonFile

File = TypeVar("File", bound=JsonFile)
EVERY = 0.5  # seconds between two checks for the files of other processes


def make_all(
    places: Mapping[str, Path],
    kind: type[File],
    make: Callable[[str], File],
    waiting: Callable[[str], object] = lambda name: None,
) -> dict[str, File]:
    """Return the files at these paths. Missing files are made by `make`, or by another process that works on them now.

    The file of a process that was killed is made by another one. waiting: called once for each file that another process
    makes. Raises InputError if a file cannot be made or written.
    """
    done: dict[str, File] = {}
    told: set[str] = set()
    while left := [name for name in places if name not in done]:
        busy = []
        for name in left:
            place = places[name]
            check_writable(place)
            with ExitStack() as held:
                if not place.exists():
                    try:
                        held.enter_context(claim(place))
                    except InputError:  # another process makes it
                        busy.append(name)
                        continue
                if not place.exists():  # another process may have finished it before the claim
                    make(name).save(place)
                done[name] = kind.load(place)
        if len(busy) == len(left):
            for name in busy:
                if name not in told:
                    told.add(name)
                    waiting(name)
            time.sleep(EVERY)
    return {name: done[name] for name in places}
