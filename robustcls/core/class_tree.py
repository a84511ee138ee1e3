"""A tree of classes, as a TOML file: tables of groups, nested as deep as wanted, down to lists of class names.

[animal]
mammal = ["cat", "dog"]
bird = ["bird"]
[vehicle]
road = ["automobile", "truck"]
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcls.core.class_map import normal
from robustcls.core.config import load_toml
from robustcls.core.errors import InputError

Groups = tuple[str, ...]  # those above a class, from the top on


@dataclass(frozen=True)
class ClassTree:
    """above: of each class of a model, output by output, the groups above it. places: of the file, each once, in its order."""

    source: str
    classes: tuple[str, ...]
    above: tuple[Groups, ...]
    places: tuple[Groups, ...]

    @property
    def sha256(self) -> str:
        """Of the classes and the groups above them."""
        return hashlib.sha256(repr((self.classes, self.above)).encode()).hexdigest()

    @property
    def height(self) -> int:
        """Edges from the lowest class to the root."""
        return 1 + max(map(len, self.above))

    def distance(self, label: int, predicted: int | None) -> int:
        """Edges from a class up to the lowest group that holds the predicted one, too; to the root for None, no answer.

        The height of the lowest common ancestor, as the severity of a mistake (Bertinetto et al., arXiv:1912.09393).
        """
        if label == predicted:
            return 0
        ours, theirs = self.above[label], self.above[predicted] if predicted is not None else ()
        shared = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), None)
        return 1 + len(ours) - (min(len(ours), len(theirs)) if shared is None else shared)

    def groups_at(self, depth: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The names of the groups so many edges below the root, in the file's order, and of each class the number of its own.

        A class that hangs higher up is in the group that it hangs in.
        """
        places = list(dict.fromkeys(place[:depth] for place in self.places))
        return tuple(map("/".join, places)), tuple(places.index(groups[:depth]) for groups in self.above)


def read_tree(path: str, classes: Sequence[str], model: str = "the model", flag: str = "`tree`") -> ClassTree:
    """The tree of a model's classes in a file, which names each of them once, in any order and spelling.

    flag: what named the file. Raises InputError, also for a tree whose only group holds all classes.
    """
    found: dict[str, tuple[str, Groups]] = {}
    for name, groups in _walk(path, load_toml(Path(path).expanduser(), flag), ()):
        if (before := found.get(normal(name))) is not None:
            raise InputError(f"{path} names {name!r} twice, in {'.'.join(before[1])} and {'.'.join(groups)}: leave one")
        found[normal(name)] = name, groups
    known = set(map(normal, classes))
    if forgotten := [name for name in classes if normal(name) not in found]:
        more = f" and {len(forgotten) - 1} more" if len(forgotten) > 1 else ""
        raise InputError(
            f"{path} forgets {forgotten[0]!r}{more}: name each of the {len(classes)} classes of {model} once"
        )
    if odd := next((name for key, (name, _) in found.items() if key not in known), ""):
        raise InputError(f"{path} names {odd!r}, which is no class of {model}: correct the name, or leave it out")
    above = tuple(found[normal(name)][1] for name in classes)
    places = tuple(dict.fromkeys(groups for _, groups in found.values()))
    if len(places) == 1:
        raise InputError(
            f"{path} has one group, {'.'.join(places[0])!r}, which tells no classes apart: give two or more"
        )
    return ClassTree(path, tuple(classes), above, places)


def _walk(path: str, table: Any, above: Groups) -> Iterator[tuple[str, Groups]]:
    """Each class with the groups above it."""
    if isinstance(table, list) and above:
        if not all(isinstance(name, (str, int)) and not isinstance(name, bool) for name in table):
            raise InputError(f"{path}: {'.'.join(above)} holds {table!r:.40}: give a list of class names")
        yield from ((str(name), above) for name in table)
    elif isinstance(table, dict):
        for name, inside in table.items():
            if "/" in name:  # groups of other depths could have the same name
                raise InputError(
                    f"{path}: the group {name!r} has a / in its name, which stands between groups: rename it"
                )
            yield from _walk(path, inside, (*above, name))
    else:
        raise InputError(
            f"{path}: {'.'.join(above)} is {table!r:.40}: give a table of groups, or a list of class names"
        )
    if not table:
        raise InputError(f"{path}: {'.'.join(above) or 'the file'} is empty: give each group classes, or leave it out")
