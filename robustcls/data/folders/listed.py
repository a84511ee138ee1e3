"""Selects images of a folder by a list file, such as the 5,000 ImageNet images on which RobustBench ranks models."""

from pathlib import Path, PurePosixPath

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.data.folders.layout import Files, Layout

SEVERAL = -1


def find_listed(file: Path, files: Files, layout: Layout) -> tuple[list[int], str]:
    """Return the sorted positions of the files that a list names, and a note.

    A line is a path below the folder, the end of such a path, or a longer path that ends in it; with or without the file
    extension. Empty lines and lines that begin with # are skipped. Raises InputError that names the first line that matches no
    file, or more than one.
    """
    try:
        lines = [line.strip().removeprefix("./") for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"list {file}: {why}: name a file with the path of an image on each line") from None
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise InputError(
            f"list {file} names no image: give the path of one on each line, such as n01440764/ILSVRC2012_1.JPEG"
        )
    places, whole = _by_end(files, layout)
    found, missing = [], []
    for line in wanted:
        place = places.get(line)
        if place is None:
            parts = line.split("/")
            place = next(
                (whole[end] for start in range(1, len(parts)) if (end := "/".join(parts[start:])) in whole), None
            )
        if place == SEVERAL:
            raise InputError(
                f"list {file}: {quoted(line)} fits more than one image of {layout.root}: name its folder, too"
            )
        found.append(place)
        missing += [line] if place is None else []
    if missing:
        raise InputError(
            f"list {file}: {len(missing)} of {len(wanted)} lines name no image of {layout.root}, such as "
            f"{quoted(missing[0])}: correct the list, or name the folder that holds them"
        )
    rows = sorted({place for place in found if place is not None})
    classes = len({files.labels[row] for row in rows})
    twice = f", {len(wanted) - len(rows)} named more than once" if len(rows) < len(wanted) else ""
    note = f"{file.name} names {len(rows)} of {len(files.paths)} images in {classes} of {len(layout.classes)} classes{twice}"
    return rows, note


def _by_end(files: Files, layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """Return positions by every end of the path below the folder, and by the whole path; SEVERAL where it is ambiguous."""
    ends: dict[str, int] = {}
    whole: dict[str, int] = {}
    for row, path in enumerate(files.paths):
        name = layout.name_of(path)
        parts = name.split("/")
        for start in range(len(parts)):
            end = PurePosixPath(*parts[start:])
            for key in {str(end), str(end.with_suffix(""))}:
                ends[key] = row if ends.get(key, row) == row else SEVERAL
                if start == 0:
                    whole[key] = row if whole.get(key, row) == row else SEVERAL
    return ends, whole
