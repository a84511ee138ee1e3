"""Lists the images below a folder, and the files that are skipped.

A file counts as an image by its extension: those that Pillow reads, and those of DICOM and HEIC where the extras are installed.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.images.formats import DICOM, HEIC, endings

TOOLS = {  # names of folders and files that tools leave behind; others are recognised by their first character
    "__macosx", "__pycache__", "lost+found", "#recycle", "$recycle.bin", "#snapshot",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
WANTED = ".png, .jpg, .tiff or other files that Pillow reads"


@dataclass
class Contents:
    """The files below one folder: images, skipped files (`passed`), and linked folders that are already read (`loops`)."""

    images: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def folders(parent: Path) -> list[str]:
    """Return the sorted names of the folders in a folder."""
    return [entry.name for entry in _scan(parent) if entry.is_dir()] if parent.is_dir() else []


def loose_files(parent: Path) -> list[str]:
    """Return the files directly in a folder. Beside class folders they belong to no class and are skipped."""
    return [f"{parent}/{entry.name}" for entry in _scan(parent) if not entry.is_dir()]


def has_loose_images(parent: Path) -> bool:
    """Whether there are images directly in the folder."""
    return any(map(_is_image, loose_files(parent)))


def walk(top: Path) -> Contents:
    """Return the files below a folder, including linked folders. Each folder is read once, and none that contains `top`."""
    contents = Contents()
    top_real = os.path.realpath(top)
    visited: set[str] = set()
    places, links = [str(top)], list[str]()
    while places or links:
        linked = not places
        # Folders are read before links, so that each is read under its own name.
        place = places.pop() if places else links.pop(0)
        real = os.path.realpath(place)
        if real in visited or (linked and f"{top_real}/".startswith(f"{real.rstrip('/')}/")):
            contents.loops.append(place)
            continue
        visited.add(real)
        for entry in _scan(place):
            path = f"{place}/{entry.name}"
            if entry.is_dir():
                (links if entry.is_symlink() else places).append(path)
            else:
                (contents.images if _is_image(path) else contents.passed).append(path)
    return contents


def how_to_read(paths: Iterable[str]) -> str:
    """Return the command that installs what is needed to read skipped files of these extensions; "" for none."""
    missing = {os.path.splitext(path)[1].lower() for path in paths} - endings().keys()
    extras = (("DICOM", DICOM), ("HEIC", HEIC))
    commands = [
        f'{name} is read after pip install "robustcls[{name.lower()}]"'
        for name, extensions in extras
        if missing.intersection(extensions)
    ]
    return f" ({'; '.join(commands)})" if commands else ""


def remarks_on(root: Path, contents: Sequence[Contents]) -> list[str]:
    """Return notes on the files that were skipped."""
    prefix = f"{root}/"
    passed = sorted(path.removeprefix(prefix) for part in contents for path in part.passed)
    loops = sorted(path.removeprefix(prefix) for part in contents for path in part.loops)
    remarks = []
    if passed:
        skipped = (
            "1 file skipped because it is not an image file in a class folder"
            if len(passed) == 1
            else f"{len(passed)} files skipped because they are not image files in class folders"
        )
        remarks.append(f"{skipped}, such as {quoted(passed[0])}{how_to_read(passed)}")
    if loops:
        leads = "1 linked folder leads" if len(loops) == 1 else f"{len(loops)} linked folders lead"
        remarks.append(f"{leads} to images that are read already, such as {quoted(loops[0])}")
    return remarks


def _scan(parent: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(parent) as entries:
            return sorted((entry for entry in entries if not _is_left_behind(entry)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {parent}: {error.strerror}: make it readable, or take it out") from None


def _is_left_behind(entry: os.DirEntry) -> bool:
    name = entry.name
    return name.startswith(".") or name.lower() in TOOLS or (name.startswith("@") and entry.is_dir())


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in endings()
