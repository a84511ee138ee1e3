"""What an evaluation measures beside its attacks: a folder in evaluation/measures is one measure, and its registration.

    NAME/__init__.py   MEASURE, a `Measure`. Read by `--help`: it imports neither torch nor pydantic.
    NAME/record.py     RECORD, the type of what was measured: pydantic, without torch. NAME is its key in evaluation.json.
    NAME/measure.py    `measure(subject, evaluation, *, ...) -> RECORD`: with torch; see `robustcls.evaluation.run_measures`.
    NAME/section.py    what the report shows, as `robustcls.reporting.sections` says: a function NAME, without torch, with its
                       template section.html; of several, section_ONE.py has the function ONE. Title and place are in MEASURE.
    NAME/card.md       what the model card shows, where it shows something: a template like reporting/assets/card.md.

From these derive the options of `robustcls report`, the profiles, the reasons of what was not measured, the time that is
planned, the keys of an evaluation, the sections of the report, its comparison of models, the parts of the model card, and
the thresholds of a policy.
"""

import dataclasses
import importlib
import math
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from robustcls.core import plugins

PACKAGE = "robustcls.evaluation.measures"
FOLDER = Path(__file__).resolve().parents[1] / "evaluation" / "measures"
FEWEST = 4  # samples: a share of fewer says nothing
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """What a report shows of a measure, under one heading."""

    order: int  # its place in the report, as `ORDER` of a section
    title: str
    missing: str  # why an evaluation lacks it that gives no reason of its own


class Ranged(NamedTuple):
    """A value that is no share, with the ends of its 95% interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Unit:
    """What a bound is a number of."""

    spec: str  # how one is written
    name: str  # behind it
    least: float = 0.0
    most: float = math.inf
    such: str = ""  # what may be given, in words

    def show(self, value: float, *ends: float) -> str:
        """The value, with the ends of its interval where they are given: `1.0 [-0.5, 2.5] points`."""
        interval = f" [{', '.join(format(end, self.spec) for end in ends)}]" if ends else ""
        return format(value, self.spec) + interval + self.name

    def holds(self, bound: float) -> bool:
        return self.least <= bound <= self.most


SHARE = Unit(".1%", "", most=1, such="a number from 0 to 1")
POINTS = Unit("z.1f", " points", least=0.1, most=100, such="points of a hundred from 0.1 to 100, such as 2")
BYTES = Unit(",.0f", " bytes", least=1, such="a number of bytes, such as 1000000")
MILLISECONDS = Unit(".2f", " ms", such="milliseconds, such as 10")


@dataclass(frozen=True)
class Threshold:
    """A number that a policy may set a bound for; the bound's name begins with `min_` or `max_`."""

    text: str  # what it is
    # Of a record: the value, an Accuracy, Estimate or Ranged where it has an interval, and on how many samples.
    read: Callable[[Any], tuple[Any, int] | None]
    under_attack: bool = False  # so that it is about the threat model of the evaluation
    unit: Unit = SHARE
    counted: str = "samples"  # what it was measured on; "" for what needs none
    how: str = ""  # how to have it measured


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is said of a measure where it is not imported."""

    text: str  # what it is called while it is measured
    order: int  # measures run from the smallest to the largest: what is cheap comes first
    parts: Mapping[str, Part]  # by the name of the section; the first is its key in `not_run` and `reduced`
    options: type | None = None  # a dataclass of options of `robustcls report`
    count: str = ""  # the one of them that says on how many samples at most, 0 for none; "" where it takes all
    fewest: int = 1  # samples, for it to say anything
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # profile: values of its options
    holds: Callable[[Any], bool] = bool  # whether a record says anything
    empty: Callable[[Any], str] = lambda record: ""  # why a record says nothing, where it is known
    headlines: Callable[[Any], list[tuple[str, float]]] = lambda record: []  # accuracies for the head of the model card
    failures: Callable[[Any], list[str]] = lambda record: []  # what failed while it was measured, for the model card
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)  # by their names in a policy
    compared: bool = (
        False  # section.py has `compared(context)`: rows of the report's comparison, (title, one cell per model)
    )
    draws_maps: bool = False  # takes attribution methods
    name: str = ""  # of its folder

    @property
    def key(self) -> str:
        """Of `not_run` and `reduced`."""
        return next(iter(self.parts))

    def option_fields(self) -> dict[str, tuple[Any, Any]]:
        """Type and field of each option, by name, for `with_fields`."""
        if self.options is None:
            return {}
        hints = typing.get_type_hints(self.options)
        return {
            one.name: (hints[one.name], field(default=one.default, metadata=one.metadata))
            for one in dataclasses.fields(self.options)
        }

    def count_in(self, options: Mapping[str, Any]) -> int | None:
        """On how many samples its options want it; None for all."""
        return options[self.count] if self.count else None

    def held_by(self, evaluation: Any) -> bool:
        """Whether an evaluation holds it, and it says something."""
        record = getattr(evaluation, self.name)
        return record is not None and self.holds(record)

    def load(self, module: str = "measure") -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{self.name}.{module}")


@cache
def measures() -> tuple[Measure, ...]:
    """All measures, in the order in which they run."""
    names = [file.parent.name for file in FOLDER.glob("*/__init__.py")]
    found = [
        dataclasses.replace(importlib.import_module(f"{PACKAGE}.{name}").MEASURE, name=name)
        for name in names
        if name[0] != "_"
    ]
    return tuple(sorted(found, key=lambda one: (one.order, one.name)))


def describe() -> list[plugins.Plugin]:
    """All measures, sorted by name, each with its options, as `plugins.describe` describes plug-ins."""
    return [
        plugins.Plugin(
            "measure", one.name, plugins.first_paragraph(sys.modules[f"{PACKAGE}.{one.name}"].__doc__ or ""),
            tuple(
                plugins.Option(name, str(hint), repr(declared.default))
                for name, (hint, declared) in one.option_fields().items()
            ),
            f"robustcls/evaluation/measures/{one.name}", f"{PACKAGE}.{one.name}",
        )
        for one in sorted(measures(), key=lambda one: one.name)
    ]  # fmt: skip


def with_fields(made: Mapping[str, tuple[Any, Any]]) -> Callable[[type[T]], type[T]]:
    """A decorator that declares fields, {name: (type, default)}, in a class that is about to become a dataclass.

    A field that the class declares already keeps its place.
    """

    def declare(kind: type[T]) -> type[T]:
        for name, (hint, default) in made.items():
            kind.__annotations__[name] = hint
            setattr(kind, name, default)
        return kind

    return declare
