"""Which of a model's outputs each class of the data is: by name where both have names, by number, or by a file."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcls.core.errors import InputError

WNID = re.compile(r"n\d{8}")
SEPARATORS = ("\t", "=", ",")
OTHERS_REMAIN = "the other {} outputs stay possible predictions, and are wrong ones"


@dataclass(frozen=True)
class ClassMap:
    """outputs: of each class of the data, the model's output. names: of each output. rule: what was mapped, or assumed, in
    words; "" where both sides have the same names in the same order."""

    outputs: tuple[int, ...]
    names: tuple[str, ...]
    rule: str = ""

    @property
    def moves_labels(self) -> bool:
        return self.outputs != tuple(range(len(self.outputs)))


@dataclass(frozen=True)
class Listing:
    """What a file of classes says. One of the two is empty.

    aliases: the names of each output, in the outputs' order, the first for display. targets: of a class of the data, the
    number or the name of an output.
    """

    source: str
    aliases: tuple[tuple[str, ...], ...] = ()
    targets: Mapping[str, int | str] | None = None


def match_classes(
    data: Sequence[str], known: Sequence[str], outputs: int, *, model: str, listing: Listing | None = None
) -> ClassMap:
    """How the classes of the data relate to a model's outputs.

    data: class names, label by label. known: the model's own class names, output by output; empty where it has none.
    outputs: how many logits it gives. model: its name, for messages. listing: what a user's file says, which wins.
    Raises InputError that names the first class without an output.
    """
    named = () if _is_numbering(known) else tuple(known)
    if listing is not None:
        try:
            return _by_listing(tuple(data), named, outputs, model, listing)
        except InputError:
            # Of several models, the file may be about another one than this.
            if named and len(named) == outputs and Counter(data) == Counter(named):
                return _by_name(tuple(data), named, model)
            raise
    if named and len(named) != outputs:
        raise InputError(
            f"{model} names {len(named)} classes and gives {outputs} outputs: say which output is which with --classes FILE"
        )
    if named or (len(known) == outputs and Counter(data) == Counter(known)):
        return _by_name(tuple(data), tuple(known), model)
    return _by_place(tuple(data), outputs, model)


def read_listing(path: str, data: Sequence[str]) -> Listing:
    """A file of classes. Raises InputError.

    Either a line for each class of the data, `folder<TAB>output` (or `=` or `,` in place of the tab, or a space before a
    number), with the output's number or its name; or a line for each output, in order, with its name, as lists of
    ImageNet's classes are written. In JSON: {"folder": 217}, ["tench", ...], or {"0": ["n01440764", "tench"], ...}. Lines
    that begin with # are comments.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}: give a file of classes with --classes") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file: give a line for each class with --classes") from None
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(path, text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path} names no class: give a line for each, such as cat=281")
    targets = _targets(path, lines, data)
    return Listing(path, targets=targets) if targets else Listing(path, tuple(_aliases(line) for line in lines))


def normal(name: str) -> str:
    """A name without what spellings differ by: case, spaces, hyphens, underscores, Unicode's two ways to write an accent."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def _by_name(data: tuple[str, ...], known: tuple[str, ...], model: str) -> ClassMap:
    if data == known:
        return ClassMap(tuple(range(len(known))), known)
    # An ImageNet folder is named by wnids, and every list of its classes is in their order.
    if len(data) == len(known) == 1000 and all(map(WNID.fullmatch, data)) and list(data) == sorted(data):
        return ClassMap(tuple(range(1000)), known, "1000 wnids in their order are taken for the model's 1000 outputs")
    aliases = tuple((name,) for name in known)
    found = [_find(name, aliases) for name in data]
    if None in found and (numbers := _numbers(data, len(known))) is not None:
        return _map(numbers, known, data, "class folders are taken as numbers of the model's outputs")
    if None in found:
        _refuse(data, found, known, len(known), model)
    rule = "classes mapped by name, since the model has them in another order"
    if len(data) < len(known):
        rule = f"classes mapped by name to {len(data)} of the model's {len(known)}"
    elif set(data) != set(known):
        rule = "classes mapped by name, in other spellings"
    return _map([place for place in found if place is not None], known, data, rule)


def _by_place(data: tuple[str, ...], outputs: int, model: str) -> ClassMap:
    """For a model without class names."""
    blank = tuple(map(str, range(outputs)))
    numbers = _numbers(data, outputs)
    if numbers is not None:
        rule = "the data's classes are taken as numbers of the model's outputs"
        return _map(numbers, blank, data, "" if data == blank else rule)
    if len(data) != outputs:
        raise InputError(
            f"{model} gives {outputs} outputs without names, the data has {len(data)} classes: which output is "
            f"{data[0]!r}? name the data that it was trained on, or map the classes with --classes FILE"
        )
    if all(name.isdecimal() for name in data) and list(data) != sorted(data, key=int):
        raise InputError(
            f"{model} has no class names, and the data's, {data[0]}, {data[1]} ... {data[-1]}, are numbers out of order: "
            "say which output each is with --classes FILE"
        )
    return ClassMap(
        tuple(range(outputs)), data, "the model has no class names: its outputs are taken in the data's order"
    )


def _by_listing(data: tuple[str, ...], named: tuple[str, ...], outputs: int, model: str, listing: Listing) -> ClassMap:
    if listing.aliases:
        if len(listing.aliases) != outputs:
            raise InputError(
                f"{listing.source} lists {len(listing.aliases)} classes, {model} gives {outputs} outputs: one line an output"
            )
        names = tuple(alias[0] for alias in listing.aliases)
        found = [_find(name, listing.aliases) for name in data]
        if None in found and (numbers := _numbers(data, outputs)) is not None:
            found = list(numbers)
        if None in found:
            _refuse(data, found, names, outputs, f"{model} with {listing.source}")
        return _map([place for place in found if place is not None], names, data, f"classes mapped by {_base(listing)}")
    names = named if len(named) == outputs else tuple(map(str, range(outputs)))
    aliases = tuple((name,) for name in names)
    places: list[int | None] = []
    for name in data:
        target = _target(name, listing.targets or {})
        place = target if isinstance(target, int) else _find(name if target is None else target, aliases)
        if place is None and isinstance(target, str) and target.isdecimal():
            place = int(target)
        if place is not None and not 0 <= place < outputs:
            raise InputError(f"{listing.source}: {name!r} is output {place}, {model} has 0 to {outputs - 1}")
        if place is None:
            what = f"calls {name!r} {target!r}, which is no class of" if target is not None else f"lacks {name!r} of"
            raise InputError(f"{listing.source} {what} {model}: give the number of its output")
        places.append(place)
    return _map([p for p in places if p is not None], names, data, f"classes mapped by {_base(listing)}", several=True)


def _map(
    places: Sequence[int], names: tuple[str, ...], data: tuple[str, ...], rule: str, *, several: bool = False
) -> ClassMap:
    """several: whether more than one class of the data may be one output."""
    twice = next((place for place, count in Counter(places).items() if count > 1), None)
    if twice is not None and not several:
        one, other = (name for name, place in zip(data, places, strict=True) if place == twice)
        raise InputError(
            f"{one!r} and {other!r} are both output {twice}, {names[twice]!r}: map them with --classes FILE"
        )
    if _is_numbering(names) and Counter(names) != Counter(
        data
    ):  # nobody named the outputs: the data's names stand for those it has
        named = list(names)
        for name, place in reversed(list(zip(data, places, strict=True))):
            named[place] = name
        names = tuple(named)
    if rule:
        place = next((i for i, at in enumerate(places) if at != i), 0)
        rule += f": {len(data)} classes, such as {data[place]} to output {places[place]}"
        rule += f" ({names[places[place]]})" if names[places[place]] != data[place] else ""
        unused = len(names) - len(set(places))
        rule += f"; {OTHERS_REMAIN.format(unused)}" if unused else ""
    return ClassMap(tuple(places), names, rule)


def _refuse(
    data: tuple[str, ...], found: Sequence[int | None], known: tuple[str, ...], outputs: int, model: str
) -> None:
    first = found.index(None)
    lone = [name for name in known if normal(name) not in set(map(normal, data))]
    instead = f", which has {lone[0]!r} instead" if lone and len(data) == len(known) else ""
    hint = ""
    same = [place for place, name in enumerate(known) if normal(name) == normal(data[first])]
    if len(same) > 1:
        instead, hint = f" for sure: outputs {same[0]} and {same[1]} are called so", ""
    elif WNID.fullmatch(data[first]):
        hint = " (a list of ImageNet's wnids does)"
    raise InputError(
        f"{model} knows {outputs} classes ({', '.join(known[:3])}{' ...' if len(known) > 3 else ''}), the data has "
        f"{len(data)}: {data[first]!r} is none of the model's{instead}: name the data that it was trained on with --data, "
        f"or map the classes with --classes FILE{hint}"
    )


def _find(name: str, aliases: Sequence[Sequence[str]]) -> int | None:
    """The output that is called so: exactly, else in another spelling; None where none is, or more than one."""
    for same in (lambda text: text, normal):
        wanted = same(name)
        places = [place for place, names in enumerate(aliases) if same(names[0]) == wanted]
        places = places or [p for p, names in enumerate(aliases) if any(same(one) == wanted for one in names[1:])]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _target(name: str, targets: Mapping[str, int | str]) -> int | str | None:
    if name in targets:
        return targets[name]
    near = [key for key in targets if normal(key) == normal(name)]
    return targets[near[0]] if len(near) == 1 else None


def _numbers(data: Sequence[str], outputs: int) -> tuple[int, ...] | None:
    """Class names that are numbers of outputs, as numbers."""
    if not all(name.isascii() and name.isdecimal() and len(name) < 9 for name in data):
        return None
    numbers = tuple(map(int, data))
    return numbers if len(set(numbers)) == len(numbers) and max(numbers) < outputs else None


def _is_numbering(names: Sequence[str]) -> bool:
    """Whether the names only count: 0, 1, 2 ..."""
    return list(names) == [str(number) for number in range(len(names))]


def _base(listing: Listing) -> str:
    return Path(listing.source).name


def _targets(path: str, lines: Sequence[str], data: Sequence[str]) -> dict[str, int | str]:
    """The lines as class of the data to output; nothing where they are a list of outputs.

    They are pairs where each has one separator and names a class of the data before it; a comma or a space may stand in a
    name, too.
    """
    wanted = {normal(name) for name in data}
    for separator in (*SEPARATORS, None):  # None: white space before a number
        split = str.split if separator else str.rsplit
        pairs = [tuple(part.strip() for part in split(line, separator, -1 if separator else 1)) for line in lines]
        if not all(len(pair) == 2 and all(pair) for pair in pairs):
            continue
        heads = [normal(pair[0]) for pair in pairs]
        all_numbers = all(pair[1].isdecimal() for pair in pairs)
        if separator is None and not (all_numbers and wanted <= set(heads)):
            continue
        if separator == "," and not (all_numbers or wanted & set(heads)):
            continue
        if len(set(heads)) < len(heads):
            twice = next(head for head, count in Counter(heads).items() if count > 1)
            raise InputError(f"{path} names {twice!r} twice: give each class of the data one output")
        return {pair[0]: int(pair[1]) if pair[1].isdecimal() and len(pair[1]) < 9 else pair[1] for pair in pairs}
    return {}


def _aliases(line: str) -> tuple[str, ...]:
    """The names of an output in a line of a list: `tench`, `tench, Tinca tinca`, `n01440764 tench, Tinca tinca`."""
    head, _, rest = line.partition(" ")
    wnid = (head,) if WNID.fullmatch(head) and rest else ()
    whole = rest.strip() if wnid else line
    words = [word.strip() for word in whole.split(",") if word.strip()]
    return tuple(dict.fromkeys((*(words[:1] or [whole]), whole, *words, *wnid)))


def _read_json(path: str, text: str) -> Listing:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error!s:.80}): give a file of classes with --classes") from None
    if isinstance(content, dict) and content and sorted(content) == sorted(map(str, range(len(content)))):
        content = [content[str(number)] for number in range(len(content))]  # {"0": ["n01440764", "tench"], ...}
    if isinstance(content, list) and content and all(map(_is_named, content)):
        return Listing(path, tuple(_json_aliases(one) for one in content))
    if isinstance(content, dict) and content and all(type(v) in (int, str) for v in content.values()):
        return Listing(path, targets=content)
    raise InputError(f'{path} is no map of classes: write {{"folder": 217, ...}} or a list of the outputs\' names')


def _is_named(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) > 0 and all(isinstance(part, str) for part in value)
    )


def _json_aliases(value: str | list[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        return _aliases(value)
    spoken = [name for name in value if not WNID.fullmatch(name)]
    return tuple(dict.fromkeys((*spoken, *value)))
