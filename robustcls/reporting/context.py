"""What every section is given."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from robustcls.reporting.html import lacking, piece
from robustcls.results.balance import class_name
from robustcls.results.policy import Policy
from robustcls.results.records import Attack, Evaluation

FEW = 30  # samples, below which a figure says little
BEYOND = "beyond what was found"  # a quartile among samples without an adversarial example
UNLIKE = "not on the same samples"  # numbers that are not compared


@dataclass(frozen=True)
class Model:
    """One of the evaluations, and how its numbers are shown: each with its path, for whoever checks it."""

    place: int
    name: str
    evaluation: Evaluation

    @property
    def series(self) -> int:
        """The place among the colours and markers."""
        return self.place % 4

    @cached_property
    def tag(self) -> Markup:
        """The name with its colour."""
        return piece("tag", self.series, self.name)

    def n(self, path: str, spec: str) -> Markup:
        """The value at a path of the evaluation, formatted by `spec`."""
        value = look_up(self.evaluation, path)
        return lacking() if value is None else piece("number", "model", self.place, path, spec, format(value, spec))

    def cells(self, path: str, spec: str, names: Mapping[str, str]) -> dict[str, Markup]:
        """The values below a path, each under the head that it has in a table."""
        return {head: self.n(f"{path}.{name}", spec) for head, name in names.items()}

    def interval(self, path: str) -> Markup:
        """An Accuracy as `43.1% [40.0%, 46.2%]`."""
        return piece("interval", *(self.n(f"{path}.{end}", ".1%") for end in ("accuracy", "ci95.0", "ci95.1")))

    def shares(self, path: str) -> dict[str, Markup]:
        """An Accuracy, its interval and its counts as cells of a table."""
        shares = self.cells(path, ".1%", {"Accuracy": "accuracy", "95% low": "ci95.0", "95% high": "ci95.1"})
        return shares | self.cells(path, ",d", {"Correct": "correct", "Samples": "total"})

    def spread(self, path: str, spec: str, n: int | None = None) -> Markup:
        """The Spread at a path as `median (q1 to q3)`, with its number of samples where that is not `n`."""
        try:
            found = look_up(self.evaluation, path)
        except KeyError:
            return lacking()
        if found.n and found.median is None:
            return lacking()
        if not found.n:
            return lacking("no sample")
        own = None if n == found.n else self.n(f"{path}.n", ",d")
        return piece("spread", *(self.n(f"{path}.{name}", spec) for name in ("median", "q1", "q3")), own)

    def quartile(self, path: str, name: str) -> Markup:
        """A quartile of the MinimumNorm at a path, or why there is none."""
        found = look_up(self.evaluation, path)
        if not found.distance:
            return unmeasured(found)
        return lacking(BEYOND) if getattr(found, name) is None else self.n(f"{path}.{name}", ".4f")

    def class_name(self, label: int | None) -> str:
        """The name of a class, or its number where the evaluation holds none; None: the model named no class."""
        return class_name(self.evaluation, label)


@dataclass(frozen=True)
class Context:
    """The evaluations of a report, scrubbed, and what was asked of it."""

    evaluations: tuple[Evaluation, ...]
    names: tuple[str, ...]  # of the models, each once
    policy: Policy
    mismatch: str  # why the evaluations cannot be compared; "" where they can, or where there is one
    redact_images: bool = False
    quality: int | None = None  # of WebP, where PNG would make the file too large
    arrays_embedded: bool = True

    @cached_property
    def models(self) -> list[Model]:
        return [Model(i, *pair) for i, pair in enumerate(zip(self.names, self.evaluations, strict=True))]

    @property
    def several(self) -> bool:
        return len(self.evaluations) > 1

    @property
    def comparable(self) -> bool:
        return self.several and not self.mismatch

    def number(self, model: int, path: str, spec: str) -> Markup:
        """The value at a path of the evaluation of a model, formatted by `spec`: `n` of the templates."""
        return self.models[model].n(path, spec)

    def of(self, model: Model, text: str) -> str:
        """The text, with the model's name behind it where there are several."""
        return f"{text} ({model.name})" if self.several else text


def unmeasured(found: Any) -> Markup:
    """Of a MinimumNorm whose attack failed before it gave any distance, which says nothing about the model."""
    return lacking(f"not measured: {found.error}" if found.error else "not measured")


def name_each(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The models' names, numbered where two share one."""
    names = [evaluation.model.name or evaluation.model.arch or "model" for evaluation in evaluations]
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names, 1))


def sentence(text: str) -> str:
    """With a capital first and a full stop last; "" stays so."""
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else text + "."


def say_who_was_attacked(every: Sequence[Attack]) -> str:
    """Which samples the attacks ran on, as a sentence begun with "in the order shown"."""
    alone = [attack.alone is not None for attack in every]
    survivors = "on the samples that were still classified correctly"
    if not any(alone):
        return f"each {survivors}"
    who = "each" if all(alone) else "those with an accuracy alone"
    rest = "" if all(alone) else f", the others only {survivors}"
    return (
        f"{who} on every sample that is right on the clean image{rest}; attacked and broken count the samples that "
        "were still classified correctly"
    )


def look_up(evaluation: Evaluation, path: str) -> Any:
    """The value at a path such as `attacks.0.options.steps`; a dot inside a key is written as two characters, \\\\ and dot."""
    value: Any = evaluation
    for part in path.replace("\\.", "\0").split("."):
        key = part.replace("\0", ".")
        if dataclasses.is_dataclass(value):
            value = getattr(value, key)
        else:
            value = value[int(key)] if isinstance(value, list) else value[key]
    return value
