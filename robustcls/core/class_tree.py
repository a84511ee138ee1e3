"""A tree of classes, read from a TOML file: nested tables of groups, of any depth, down to lists of class names.

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

Groups = tuple[str, ...]  # the groups above a class, from the root down


@dataclass(frozen=True)
class ClassTree:
    """A tree over the classes of a model.

    above: the groups above each class, in the order of the model's outputs. places: the distinct groups in file order.
    """

    source: str
    classes: tuple[str, ...]
    above: tuple[Groups, ...]
    places: tuple[Groups, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 digest of the classes and the groups above them."""
        return hashlib.sha256(repr((self.classes, self.above)).encode()).hexdigest()

    @property
    def height(self) -> int:
        """The number of edges from the deepest class to the root."""
        return 1 + max(map(len, self.above))

    def distance(self, label: int, predicted: int | None) -> int:
        """Return the number of edges from the label up to the lowest group that also contains the predicted class.

        For predicted None (no predicted class), it is the distance to the root. The height of the lowest common ancestor is
        the severity of a mistake (Bertinetto et al., arXiv:1912.09393).
        """
        if label == predicted:
            return 0
        of_label, of_predicted = self.above[label], self.above[predicted] if predicted is not None else ()
        pairs = enumerate(zip(of_label, of_predicted, strict=False))
        shared = next((depth for depth, (one, other) in pairs if one != other), None)
        return 1 + len(of_label) - (min(len(of_label), len(of_predicted)) if shared is None else shared)

    def groups_at(self, depth: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the names of the groups `depth` edges below the root, in file order, and the group index of each class.

        A class that is less deep belongs to the group directly above it.
        """
        places = list(dict.fromkeys(place[:depth] for place in self.places))
        return tuple(map("/".join, places)), tuple(places.index(groups[:depth]) for groups in self.above)


def read_tree(path: str, classes: Sequence[str], model: str = "the model", flag: str = "`tree`") -> ClassTree:
    """Read the tree of a model's classes from a file that names each class once, in any order and spelling.

    flag: the option that names the file, for messages. Raises InputError, also for a tree whose only group has all classes.
    """
    by_name: dict[str, tuple[str, Groups]] = {}
    for name, groups in _walk(path, load_toml(Path(path).expanduser(), flag), ()):
        if (before := by_name.get(normal(name))) is not None:
            raise InputError(f"{path} names {name!r} twice, in {'.'.join(before[1])} and {'.'.join(groups)}: leave one")
        by_name[normal(name)] = name, groups
    known = set(map(normal, classes))
    if forgotten := [name for name in classes if normal(name) not in by_name]:
        more = f" and {len(forgotten) - 1} more" if len(forgotten) > 1 else ""
        raise InputError(
            f"{path} forgets {forgotten[0]!r}{more}: name each of the {len(classes)} classes of {model} once"
        )
    if odd := next((name for key, (name, _) in by_name.items() if key not in known), ""):
        raise InputError(f"{path} names {odd!r}, which is no class of {model}: correct the name, or leave it out")
    above = tuple(by_name[normal(name)][1] for name in classes)
    places = tuple(dict.fromkeys(groups for _, groups in by_name.values()))
    if len(places) == 1:
        raise InputError(
            f"{path} has one group, {'.'.join(places[0])!r}, which tells no classes apart: give two or more"
        )
    return ClassTree(path, tuple(classes), above, places)


def _walk(path: str, table: Any, above: Groups) -> Iterator[tuple[str, Groups]]:
    """Yield each class with the groups above it."""
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
