"""The files and folders below a folder: which are images, and which are passed over."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.data._endings import endings, how_to_read

TOOLS = {  # folders and files that tools leave behind; others are known by the first letter
    "__macosx", "__pycache__", "lost+found", "#recycle", "$recycle.bin", "#snapshot",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


@dataclass
class Found:
    """The files below one folder: images, those passed over, and links that lead back."""

    images: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def wanted() -> str:
    return ".png, .jpg, .tiff or other files that Pillow reads"


def unread(by_class: dict[str, Found]) -> str:
    return how_to_read([path for its in by_class.values() for path in its.passed])


def remarks_on(root: Path, found: Sequence[Found]) -> list[str]:
    """What a reader must know of the files that were not taken."""
    prefix = f"{root}/"
    passed = sorted(path.removeprefix(prefix) for its in found for path in its.passed)
    loops = sorted(path.removeprefix(prefix) for its in found for path in its.loops)
    remarks = []
    if passed:
        what = "1 file passed over that is" if len(passed) == 1 else f"{len(passed)} files passed over that are"
        remarks.append(f"{what} no image in a class folder by ending, such as {quoted(passed[0])}{how_to_read(passed)}")
    if loops:
        what = "1 linked folder leads" if len(loops) == 1 else f"{len(loops)} linked folders lead"
        remarks.append(f"{what} to images that are read already, such as {quoted(loops[0])}")
    return remarks


def _passed_over(entry: os.DirEntry) -> bool:
    name = entry.name
    return name.startswith(".") or name.lower() in TOOLS or (name.startswith("@") and entry.is_dir())


def _scan(parent: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(parent) as entries:
            return sorted((entry for entry in entries if not _passed_over(entry)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {parent}: {error.strerror}: make it readable, or take it out") from None


def folders(parent: Path) -> list[str]:
    return [entry.name for entry in _scan(parent) if entry.is_dir()] if parent.is_dir() else []


def loose_files(parent: Path) -> list[str]:
    """The files that lie beside class folders: of no class, so passed over."""
    return [f"{parent}/{entry.name}" for entry in _scan(parent) if not entry.is_dir()]


def walk(top: Path) -> Found:
    """The files below a folder, of linked folders, too: each folder once, and none that holds the folder itself."""
    found = Found()
    top_real = os.path.realpath(top)
    visited: set[str] = set()
    places, links = [str(top)], list[str]()
    while places or links:
        linked = not places
        place = places.pop() if places else links.pop(0)  # folders before links: each is read under its own name
        real = os.path.realpath(place)
        if real in visited or (linked and f"{top_real}/".startswith(f"{real.rstrip('/')}/")):
            found.loops.append(place)
            continue
        visited.add(real)
        for entry in _scan(place):
            path = f"{place}/{entry.name}"
            if entry.is_dir():
                (links if entry.is_symlink() else places).append(path)
            elif _is_image(entry.name):
                found.images.append(path)
            else:
                found.passed.append(path)
    return found


def has_loose_images(parent: Path) -> bool:
    """Whether images lie in the folder itself."""
    return any(not entry.is_dir() and _is_image(entry.name) for entry in _scan(parent))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in endings()
