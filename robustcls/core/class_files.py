"""Read files that map the classes of the data to the outputs of a model."""

import json
from collections import Counter
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from robustcls.core.class_map import WNID, Listing, is_number, normal
from robustcls.core.errors import InputError

SEPARATORS = ("\t", "=", ":", ";", ",", None)  # None: white space next to a number
CLEAR = ("\t", "=")  # separators that never occur in names


def read_listing(path: str, data: Sequence[str]) -> Listing:
    """Read a file of classes. Raises InputError.

    The file has one line per class of the data, `folder=output`, where the output is a number or a name; a tab, `:`, `;`, `,`
    or a space before a number may replace `=`, and the number may come first. Or it has one line per output, in order, with
    the name of the output, as in common lists of the ImageNet classes. JSON: {"folder": 217}, {"217": "folder"},
    ["tench", ...], or {"0": ["n01440764", "tench"], ...}. Lines that begin with # are comments.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give a file of classes with `classes`") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: give a line for each class with `classes`") from None
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(path, text, data)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path} names no class: give a line for each, such as cat=281")
    return _pairs(path, lines, data) or Listing(path, tuple(_aliases(line) for line in lines))


def _pairs(path: str, lines: Sequence[str], data: Sequence[str]) -> Listing | None:
    """Return the lines as pairs of a data class and an output, in either order; None if they are a list of outputs.

    Lines are pairs if each contains the separator once and names a class of the data. A separator such as a comma may also be
    part of a name.
    """
    wanted = {normal(name) for name in data}
    if wanted <= set(map(normal, lines)):
        return None
    for separator in SEPARATORS:
        first = [[part.strip() for part in line.split(separator, 1)] for line in lines]
        numbered = all(len(one) == 2 and all(one) and is_number(one[0]) for one in first)
        named = [(number, _aliases(name)) for number, name in first] if numbered else []
        if named and wanted != {number for number, _ in named} and (found := _by_number(path, named, data)):
            return found
        # Split at the last white space; any other separator must occur exactly once.
        split = [line.split(separator) if separator else line.rsplit(None, 1) for line in lines]
        pairs = [[part.strip() for part in parts] for parts in split]
        if not all(len(pair) == 2 and all(pair) for pair in pairs):
            continue
        heads = [head for head, _ in pairs]
        known = wanted & set(map(normal, heads))
        all_numbers = all(is_number(tail) for _, tail in pairs)
        if separator is None and not (all_numbers and known == wanted):
            continue
        if separator not in CLEAR and not (all_numbers or known):
            continue
        _check_once(path, heads)
        return Listing(path, targets={head: int(tail) if is_number(tail) else tail for head, tail in pairs})
    _check_all_pairs(path, lines, wanted)
    return None


def _check_all_pairs(path: str, lines: Sequence[str], wanted: Set[str]) -> None:
    """Raise InputError if some lines are pairs of a data class and its output, and others are not."""
    for separator in filter(None, SEPARATORS):
        pairs = [line.partition(separator) for line in lines]
        clear = [
            normal(head) in wanted and bool(tail.strip()) and (separator in CLEAR or is_number(tail.strip()))
            for head, _, tail in pairs
        ]
        if any(clear):
            odd = lines[clear.index(False)] if False in clear else lines[0]
            like = lines[clear.index(True)]
            raise InputError(
                f"{path}: {odd!r} is not a class of the data and its output, as {like!r} is: correct the line"
            )


def _by_number(path: str, named: Sequence[tuple[str, tuple[str, ...]]], data: Sequence[str]) -> Listing | None:
    """Return pairs of an output number and its names, for all outputs or for those in the data, as a Listing.

    None if the numbers are the names of data classes, or if the names are not those of the data.
    """
    wanted = {normal(name) for name in data}
    names = [name for _, aliases in named for name in aliases]
    if all(is_number(aliases[0]) for _, aliases in named):
        return None
    targets = {}
    if wanted & set(map(normal, names)):
        targets = {name: int(number) for number, aliases in named for name in aliases}
    in_order = sorted(named, key=lambda one: int(one[0]))
    if [int(number) for number, _ in in_order] == list(range(len(named))):
        return Listing(path, tuple(aliases for _, aliases in in_order), targets)
    if not targets or wanted & {number for number, _ in named}:
        return None
    _check_once(path, [name for name in names if normal(name) in wanted])
    return Listing(path, targets=targets)


def _check_once(path: str, names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(map(normal, names)).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{path} names {twice!r} twice: give each class of the data one output")


def _aliases(line: str | list[str]) -> tuple[str, ...]:
    """Return the names of an output in a line: `tench`, `tench, Tinca tinca` or `n01440764 tench, Tinca tinca`."""
    if isinstance(line, list):  # from JSON
        return tuple(dict.fromkeys((*(name for name in line if not WNID.fullmatch(name)), *line)))
    head, _, rest = line.partition(" ")
    wnid = (head,) if WNID.fullmatch(head) and rest else ()
    whole = rest.strip() if wnid else line
    words = [word.strip() for word in whole.split(",") if word.strip()]
    return tuple(dict.fromkeys((*(words[:1] or [whole]), whole, *words, *wnid)))


def _read_json(path: str, text: str, data: Sequence[str]) -> Listing:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error!s:.80}): give a file of classes with `classes`") from None
    if isinstance(content, list) and content and all(map(_is_named, content)):
        return Listing(path, tuple(map(_aliases, content)))
    if isinstance(content, dict) and content:
        if all(map(is_number, content)) and all(map(_is_named, content.values())):
            named = [(number, _aliases(one)) for number, one in content.items()]
            if found := _by_number(path, named, data):
                return found
        if all(type(value) in (int, str) for value in content.values()):
            return Listing(path, targets=content)
    raise InputError(
        f'{path} is not a map of classes: write {{"{data[0]}": 217, ...}}, or a list of the outputs\' names, ["tench", ...]'
    )


def _is_named(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return names != [] and all(isinstance(name, str) for name in names)
