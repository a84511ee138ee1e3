"""Map the classes of the data to the outputs of a model: by name, by number, or by a file."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustcls.core.errors import InputError

MAP = "map the classes with `classes=FILE`"  # advice if the order of the outputs is uncertain
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class ClassMap:
    """The model's output for each class of the data.

    outputs: the output number of each class. names: the name of each output. rule: how the classes were mapped or what was
    assumed, in words; "" if model and data have the same names in the same order.
    """

    outputs: tuple[int, ...]
    names: tuple[str, ...]
    rule: str = ""

    @property
    def moves_labels(self) -> bool:
        return self.outputs != tuple(range(len(self.outputs)))


@dataclass(frozen=True)
class Listing:
    """The content of a file of classes.

    aliases: the names of each output, in the order of the outputs, with the name for display first; empty if the file does
    not list outputs. targets: data class -> number or name of an output; used if aliases are not as many as the outputs.
    """

    source: str
    aliases: tuple[tuple[str, ...], ...] = ()
    targets: Mapping[str, int | str] | None = None


def match_classes(
    data: Sequence[str],
    known: Sequence[str],
    outputs: int,
    *,
    model: str,
    listing: Listing | None = None,
    shared: bool = False,
) -> ClassMap:
    """Map the classes of the data to the outputs of a model.

    data: class names in the order of the labels. known: the model's own class names in the order of its outputs; empty if it
    has none. outputs: number of logits. model: name of the model, for messages. listing: content of the user's file, which
    takes precedence if it does not contradict the model. shared: whether the file may be about another model; the model's own
    names then take precedence. Raises InputError that names the first class without an output.
    """
    data, known = tuple(data), tuple(known)
    fits = len(known) == outputs
    if listing is not None:
        if not (shared and fits and all(_find(name, _alone(known)) is not None for name in data)):
            return _by_listing(data, known if fits else (), outputs, model, listing)
        mapped = _by_name(data, known, model)
        unused = f"{Path(listing.source).name} is not used, since the model has classes of the data's names"
        return replace(mapped, rule="; ".join(filter(None, (mapped.rule, unused))))
    if known and not fits:
        raise InputError(
            f"{model} names {len(known)} classes and gives {outputs} outputs: say which output is which with `classes=FILE`"
        )
    return _by_name(data, known, model) if known else _by_place(data, outputs, model)


def own_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of outputs; none if they are only numbers 0, 1, 2 ..., which code may use as placeholders."""
    return () if _is_numbering(names) else tuple(names)


def normal(name: str) -> str:
    """Return a name in a normal form that ignores case, spaces, hyphens, underscores and the Unicode form of accents.

    Numbers are not normalised: -1 and _1 differ from 1.
    """
    name = unicodedata.normalize("NFC", name).strip()
    spelled = " ".join(re.sub(r"[\s_]|-(?!\d)|(?<=\w)-", " ", name).split())
    return name if spelled.isdecimal() else spelled.casefold()


def is_number(value: object) -> bool:
    """Whether a value is an int, or text with a whole number of at most eight digits."""
    return type(value) is int or (isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 9)


def _by_name(data: tuple[str, ...], known: tuple[str, ...], model: str) -> ClassMap:
    if data == known:
        return ClassMap(tuple(range(len(known))), known)
    # ImageNet class folders are named by wnid, and lists of ImageNet classes are usually sorted by wnid.
    if len(data) == len(known) == 1000 and all(map(WNID.fullmatch, data)) and list(data) == sorted(data):
        rule = "1000 wnids in their order are taken for the model's 1000 outputs"
        if list(known) == sorted(known, key=str.casefold) and known != data:
            rule += (
                f", but the model names them in alphabetical order, {_some(known)}, which is not that of wnids: {MAP}"
            )
        return ClassMap(tuple(range(1000)), known, rule)
    places, by_number = _places(data, _alone(known), len(known), model)
    if by_number:
        rule = "class folders are taken as numbers of the model's outputs"
    elif len(data) < len(known):
        rule = f"classes mapped by name to {len(data)} of the model's {len(known)}"
    elif set(data) != set(known):
        rule = "classes mapped by name, in other spellings"
    else:
        rule = "classes mapped by name, since the model has them in another order"
    return _map(places, known, data, rule)


def _by_place(data: tuple[str, ...], outputs: int, model: str) -> ClassMap:
    """Map classes to the outputs of a model without class names."""
    if (numbers := _numbers(data, outputs)) is not None:
        blank = tuple(map(str, range(outputs)))
        rule = "the data's classes are taken as numbers of the model's outputs" if data != blank else ""
        return _map(numbers, blank, data, rule)
    wnids = all(map(WNID.fullmatch, data))
    if len(data) != outputs:
        hint = f" (lines such as {data[0]}=0, by ImageNet's order)" if wnids else ""
        raise InputError(
            f"{model} gives {outputs} outputs without names, the data has {len(data)} classes: which output is "
            f"{data[0]!r}? name the data that it was trained on, or map the classes with `classes=FILE`{hint}"
        )
    if all(name.isdecimal() for name in data) and list(data) != sorted(data, key=int):
        raise InputError(
            f"{model} has no class names, and the data's, {data[0]}, {data[1]} ... {data[-1]}, are numbers out of order: "
            "say which output each is with `classes=FILE`"
        )
    rule = "the model has no class names: its outputs are taken in the data's order"
    if outputs == 1000 and not wnids:
        rule += f", {_some(data)}, which is not ImageNet's, by wnid: if the model has that, {MAP}"
    return ClassMap(tuple(range(outputs)), data, rule)


def _by_listing(data: tuple[str, ...], named: tuple[str, ...], outputs: int, model: str, listing: Listing) -> ClassMap:
    rule = f"classes mapped by {Path(listing.source).name}"
    if listing.aliases and (len(listing.aliases) == outputs or not listing.targets):
        if len(listing.aliases) != outputs:
            raise InputError(
                f"{listing.source} lists {len(listing.aliases)} classes, {model} gives {outputs} outputs: give each output "
                f"a line with its name, or each class of the data one such as {data[0]}=0"
            )
        for place, name in enumerate(named):
            listed = _find(name, listing.aliases)
            if listed not in (None, place) and normal(name) not in map(normal, listing.aliases[place]):
                raise InputError(
                    f"{listing.source} lists {name!r} as output {listed}, but {model} itself gives this name to "
                    f"output {place}: leave out `classes`, or correct the file"
                )
        places, _ = _places(data, listing.aliases, outputs, model, listing.source)
        return _map(places, tuple(alias[0] for alias in listing.aliases), data, rule)
    named_in_file = tuple(listing.targets or ())
    if all(_find(name, _alone(named_in_file)) is None for name in data):
        raise InputError(
            f"{listing.source} names {_some(named_in_file)}, none of which is a class of the data, "
            f"{_some(data)}: give each of these a line such as {data[0]}=0"
        )
    names = named or tuple(map(str, range(outputs)))
    places = [_place(name, _alone(names), model, listing) for name in data]
    own = [_find(name, _alone(named)) for name in data]
    moved = next((label for label, place in enumerate(own) if place not in (None, places[label])), None)
    if moved is not None:
        calls = f"calls output {own[moved]} {named[own[moved] or 0]!r}"
        if len(data) == outputs and None not in own:
            raise InputError(
                f"{listing.source} takes {data[moved]!r} for output {places[moved]}, {model} itself {calls}: leave out "
                "`classes`, or correct the file"
            )
        rule += f", although the model {calls}"
    return _map(places, names, data, rule, several=True)


def _places(
    data: Sequence[str], aliases: Sequence[Sequence[str]], outputs: int, model: str, source: str = ""
) -> tuple[list[int], bool]:
    """Return the output of each class of the data, and whether all were mapped by number because not all have a name.

    source: the file that lists the names of the outputs, if they do not come from the model.
    """
    by_name = [_find(name, aliases) for name in data]
    if None not in by_name:
        return [place for place in by_name if place is not None], False
    if (numbers := _numbers(data, outputs)) is not None:
        return list(numbers), True
    first, known = data[by_name.index(None)], [names[0] for names in aliases]
    same = [place for place, name in enumerate(known) if normal(name) == normal(first)]
    spelled = set(map(normal, data))
    lone = [name for name in known if normal(name) not in spelled]
    if len(same) > 1:
        instead, hint = f" for certain: outputs {same[0]} and {same[1]} both have this name", ""
    else:
        instead = f", which has {lone[0]!r} instead" if lone and len(data) == len(known) else ""
        hint = " (a list of ImageNet's wnids does)" if WNID.fullmatch(first) else ""
    if source:
        raise InputError(
            f"{source} lists {len(known)} outputs, {_some(known)}: by it {first!r} is none of the model's{instead}: correct "
            f"the line, or give each class of the data one such as {first}=0"
        )
    raise InputError(
        f"{model} knows {outputs} classes ({', '.join(known[:3])}{' ...' if len(known) > 3 else ''}), the data has "
        f"{len(data)}: {first!r} is none of the model's{instead}: name the data that it was trained on with `data`, "
        f"or map the classes with `classes=FILE`{hint}"
    )


def _place(name: str, aliases: Sequence[Sequence[str]], model: str, listing: Listing) -> int:
    """Return the output that a file assigns to a class of the data, or the output of that name if the file omits it."""
    targets = list((listing.targets or {}).items())
    at = _find(name, _alone([key for key, _ in targets]))
    target = None if at is None else targets[at][1]
    place = target if isinstance(target, int) else _find(name if target is None else target, aliases)
    if place is None and isinstance(target, str) and target.isdecimal():
        place = int(target)
    if place is not None and not 0 <= place < len(aliases):
        raise InputError(f"{listing.source}: {name!r} is output {place}, {model} has 0 to {len(aliases) - 1}")
    if place is None:
        what = f"calls {name!r} {target!r}, which is no class of" if target is not None else f"lacks {name!r} of"
        raise InputError(f"{listing.source} {what} {model}: give the number of its output in a line such as {name}=0")
    return place


def _map(
    places: Sequence[int], names: tuple[str, ...], data: tuple[str, ...], rule: str, *, several: bool = False
) -> ClassMap:
    """Return the ClassMap. several: whether several classes of the data may share an output."""
    twice = next((place for place, count in Counter(places).items() if count > 1), None)
    if twice is not None and not several:
        one, other = (name for name, place in zip(data, places, strict=True) if place == twice)
        both = f"{one!r} and {other!r} are both output {twice}, {names[twice]!r}"
        raise InputError(f"{both}: map them with `classes=FILE`")
    if _is_numbering(names) and Counter(names) != Counter(data):  # outputs without names get the names of the data
        own = dict(zip(reversed(places), reversed(data), strict=True))
        names = tuple(own.get(place, name) for place, name in enumerate(names))
    if rule:
        place = next((i for i, at in enumerate(places) if at != i), 0)
        rule += f": {len(data)} classes, such as {data[place]} to output {places[place]}"
        rule += f" ({names[places[place]]})" if names[places[place]] != data[place] else ""
        unused = len(names) - len(set(places))
        rule += f"; the other {unused} outputs remain possible predictions, which are always wrong" if unused else ""
    return ClassMap(tuple(places), names, rule)


def _find(name: str, aliases: Sequence[Sequence[str]]) -> int | None:
    """Return the output of a name, exactly or in another spelling; None if none or several have it."""
    for same in (lambda text: text, normal):
        wanted = same(name)
        places = [place for place, names in enumerate(aliases) if same(names[0]) == wanted]
        places = places or [p for p, names in enumerate(aliases) if any(same(one) == wanted for one in names[1:])]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _numbers(data: Sequence[str], outputs: int) -> tuple[int, ...] | None:
    """Return class names as output numbers, or None unless all are distinct valid output numbers."""
    if not all(map(is_number, data)):
        return None
    numbers = tuple(map(int, data))
    return numbers if len(set(numbers)) == len(numbers) and max(numbers) < outputs else None


def _is_numbering(names: Sequence[str]) -> bool:
    """Whether the names are 0, 1, 2 ..."""
    return list(names) == [str(number) for number in range(len(names))]


def _some(names: Sequence[str]) -> str:
    """Return the first three names as text."""
    return ", ".join(map(repr, names[:3])) + (" ..." if len(names) > 3 else "")


def _alone(names: Sequence[str]) -> tuple[tuple[str], ...]:
    """Return names of outputs as aliases, one alias per output."""
    return tuple((name,) for name in names)
