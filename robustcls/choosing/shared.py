"""Work that several processes share through the files that it makes: each is made once, by whoever comes first."""

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
EVERY = 0.5  # seconds between two looks at what others make


def make_all(
    places: Mapping[str, Path],
    kind: type[File],
    make: Callable[[str], File],
    waiting: Callable[[str], object] = lambda name: None,
) -> dict[str, File]:
    """The files at these places, those that are not there made by `make`, or by the other processes that make them now.

    A file that was left by a process that was killed is made anew by another. waiting: told what others make, once. Raises
    InputError, of what cannot be made or written.
    """
    found: dict[str, File] = {}
    told: set[str] = set()
    while left := [name for name in places if name not in found]:
        busy = []
        for name in left:
            place = places[name]
            check_writable(place)
            with ExitStack() as held:
                if not place.exists():
                    try:
                        held.enter_context(claim(place))
                    except InputError:  # another process has it
                        busy.append(name)
                        continue
                if not place.exists():  # it may have come before the claim
                    make(name).save(place)
                found[name] = kind.load(place)
        if len(busy) == len(left):
            for name in busy:
                if name not in told:
                    told.add(name)
                    waiting(name)
            time.sleep(EVERY)
    return {name: found[name] for name in places}
