"""What an evaluation measures in addition to its attacks. Each folder in evaluation/measures is and registers one measure.

    NAME/__init__.py   MEASURE, a `Measure`. Read by `--help`: it imports neither torch nor pydantic.
    NAME/record.py     RECORD, the type of the result: pydantic, without torch. NAME is its key in evaluation.json.
    NAME/measure.py    `measure(subject, evaluation, *, ...) -> RECORD`: with torch; see `robustcls.evaluation.run_measures`.
    NAME/section.py    the section of the report, as described in `robustcls.reporting.sections`: a function NAME, without
                       torch, with its template section.html. If there are several sections, section_ONE.py has the function
                       ONE. Title and position are in MEASURE.
    NAME/card.md       optional: the part of the model card, a template like reporting/assets/card.md.

The following are derived from these files: the options of `robustcls report`, the profiles, the reasons why something was not
measured, the planned time, the keys of an evaluation, the sections of the report and its comparison of models, the parts of
the model card, and the thresholds of a policy.
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
FEWEST = 4  # samples; a share of fewer is meaningless
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One section of the report about a measure."""

    order: int  # position in the report, like `ORDER` of a section
    title: str
    missing: str  # reason to show if an evaluation lacks the part and does not record a reason


class Ranged(NamedTuple):
    """A value that is not a share, with its 95% interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Unit:
    """The unit of a threshold: how its values are written, and which are allowed."""

    spec: str  # format specification of a value
    name: str  # text after the value
    least: float = 0.0
    most: float = math.inf
    such: str = ""  # the allowed values, in words

    def show(self, value: float, *ends: float) -> str:
        """Return the value as text, with the ends of its interval if given: `1.0 [-0.5, 2.5] points`."""
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
    """A quantity that a policy may bound. The name of the bound begins with `min_` or `max_`."""

    text: str  # the quantity, in words
    # From a record: the value (an Accuracy, Estimate or Ranged if it has an interval) and the number of samples.
    read: Callable[[Any], tuple[Any, int] | None]
    under_attack: bool = False  # if True, it depends on the threat model of the evaluation
    unit: Unit = SHARE
    counted: str = "samples"  # what it was measured on; "" if it needs no samples
    how: str = ""  # how to measure it


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The description of a measure, available without importing the measure."""

    text: str  # name in progress messages
    order: int  # measures run in ascending order, so cheap ones come first
    parts: Mapping[str, Part]  # by section name; the first name is the key in `not_run` and `reduced`
    options: type | None = None  # a dataclass of options of `robustcls report`
    count: str = ""  # name of the option with the maximum number of samples (0: do not measure); "" if it uses all
    fewest: int = 1  # minimum number of samples
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # profile -> values of the options
    holds: Callable[[Any], bool] = bool  # whether a record has results
    empty: Callable[[Any], str] = lambda record: ""  # why a record has no results, if known
    headlines: Callable[[Any], list[tuple[str, float]]] = lambda record: []  # accuracies for the top of the model card
    failures: Callable[[Any], list[str]] = lambda record: []  # failures during the measurement, for the model card
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)  # by name in a policy
    compared: bool = False  # section.py has `compared(context)`: rows of the comparison, (title, cells)
    draws_maps: bool = False  # uses attribution methods
    name: str = ""  # name of the folder

    @property
    def key(self) -> str:
        """The key in `not_run` and `reduced`."""
        return next(iter(self.parts))

    def option_fields(self) -> dict[str, tuple[Any, Any]]:
        """Return the type and the field of each option by name, for `with_fields`."""
        if self.options is None:
            return {}
        hints = typing.get_type_hints(self.options)
        return {
            one.name: (hints[one.name], field(default=one.default, metadata=one.metadata))
            for one in dataclasses.fields(self.options)
        }

    def count_in(self, options: Mapping[str, Any]) -> int | None:
        """Return the number of samples that the options ask for; None for all samples."""
        return options[self.count] if self.count else None

    def held_by(self, evaluation: Any) -> bool:
        """Whether an evaluation contains this measure with results."""
        record = getattr(evaluation, self.name)
        return record is not None and self.holds(record)

    def load(self, module: str = "measure") -> ModuleType:
        return importlib.import_module(f"{PACKAGE}.{self.name}.{module}")


@cache
def measures() -> tuple[Measure, ...]:
    """Return all measures in the order in which they run."""
    names = [file.parent.name for file in FOLDER.glob("*/__init__.py")]
    unordered = [
        dataclasses.replace(importlib.import_module(f"{PACKAGE}.{name}").MEASURE, name=name)
        for name in names
        if name[0] != "_"
    ]
    return tuple(sorted(unordered, key=lambda one: (one.order, one.name)))


def describe() -> list[plugins.Plugin]:
    """Return descriptions of all measures with their options, sorted by name, like `plugins.describe`."""
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
    """Return a class decorator that adds the fields {name: (type, default)}, for use below `@dataclass`.

    A field that the class already declares keeps its position.
    """

    def declare(kind: type[T]) -> type[T]:
        for name, (hint, default) in made.items():
            kind.__annotations__[name] = hint
            setattr(kind, name, default)
        return kind

    return declare
