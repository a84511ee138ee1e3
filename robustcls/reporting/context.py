"""The context that every section of a report receives: the evaluations, their names, the policy and the options."""

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

FEW = 30  # samples; a number from fewer samples is marked as unreliable
BEYOND = "beyond what was found"  # shown for a quartile that falls among samples without an adversarial image
UNLIKE = "not on the same samples"  # shown for numbers that must not be compared


@dataclass(frozen=True)
class Model:
    """One evaluation of the report. Its numbers are shown with their paths in the evaluation, so that they can be checked."""

    place: int
    name: str
    evaluation: Evaluation

    @property
    def series(self) -> int:
        """The index into the colours and markers of figures."""
        return self.place % 4

    @cached_property
    def tag(self) -> Markup:
        """The name of the model with its colour, as HTML."""
        return piece("tag", self.series, self.name)

    def n(self, path: str, spec: str) -> Markup:
        """The value at a path of the evaluation, formatted by `spec`."""
        value = look_up(self.evaluation, path)
        return lacking() if value is None else piece("number", "model", self.place, path, spec, format(value, spec))

    def cells(self, path: str, spec: str, names: Mapping[str, str]) -> dict[str, Markup]:
        """Cells of a table, by the heads of their columns. names: for each head, the field below the path."""
        return {head: self.n(f"{path}.{name}", spec) for head, name in names.items()}

    def interval(self, path: str) -> Markup:
        """The Accuracy at a path with its interval: `43.1% [40.0%, 46.2%]`."""
        return piece("interval", *(self.n(f"{path}.{end}", ".1%") for end in ("accuracy", "ci95.0", "ci95.1")))

    def shares(self, path: str) -> dict[str, Markup]:
        """The Accuracy at a path, its interval and its counts, as cells of a table."""
        shares = self.cells(path, ".1%", {"Accuracy": "accuracy", "95% low": "ci95.0", "95% high": "ci95.1"})
        return shares | self.cells(path, ",d", {"Correct": "correct", "Samples": "total"})

    def spread(self, path: str, spec: str, n: int | None = None) -> Markup:
        """The Spread at a path as `median (q1 to q3)`, with its number of samples if that differs from `n`."""
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
        """A quartile of the MinimumNorm at a path, or the reason why there is none."""
        found = look_up(self.evaluation, path)
        if not found.distance:
            return unmeasured(found)
        return lacking(BEYOND) if getattr(found, name) is None else self.n(f"{path}.{name}", ".4f")

    def class_name(self, label: int | None) -> str:
        """The name of a class, or its number if the evaluation has no name for it. label None: the model predicted no class."""
        return class_name(self.evaluation, label)


@dataclass(frozen=True)
class Context:
    """The scrubbed evaluations of a report and the options of the report."""

    evaluations: tuple[Evaluation, ...]
    names: tuple[str, ...]  # of the models, without duplicates
    policy: Policy
    mismatch: str  # why the evaluations cannot be compared; "" if they can, or if there is only one
    redact_images: bool = False
    quality: int | None = None  # of WebP images, if PNG would make the file too large; None: PNG
    arrays_embedded: bool = True  # whether the JSON inside the page keeps the arrays of the gallery

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
        """The value at a path of one model's evaluation, formatted by `spec`; templates call it `n`."""
        return self.models[model].n(path, spec)

    def of(self, model: Model, text: str) -> str:
        """The text, followed by the model's name if the report has several models."""
        return f"{text} ({model.name})" if self.several else text


def unmeasured(found: Any) -> Markup:
    """The cell for a MinimumNorm whose attack failed before it found any distance."""
    return lacking(f"not measured: {found.error}" if found.error else "not measured")


def name_each(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """The names of the models; models with the same name are numbered."""
    names = [evaluation.model.name or evaluation.model.arch or "model" for evaluation in evaluations]
    counts = Counter(names)
    return tuple(f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names, 1))


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop at the end; an empty text stays empty."""
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else text + "."


def say_who_was_attacked(every: Sequence[Attack]) -> str:
    """The samples that each attack ran on, as the end of a sentence such as "Attacks run in the order shown, ..."."""
    alone = [attack.alone is not None for attack in every]
    survivors = "on the samples that were still classified correctly"
    if not any(alone):
        return f"each {survivors}"
    who = "each" if all(alone) else "attacks with an accuracy alone"
    rest = "" if all(alone) else f", the others only {survivors}"
    return (
        f"{who} on every sample whose clean image is classified correctly{rest}; Attacked and Broken count only the "
        "samples that were still classified correctly"
    )


def look_up(evaluation: Evaluation, path: str) -> Any:
    """The value at a path such as `attacks.0.options.steps`. A dot inside a key is escaped by a backslash."""
    value: Any = evaluation
    for part in path.replace("\\.", "\0").split("."):
        key = part.replace("\0", ".")
        if dataclasses.is_dataclass(value):
            value = getattr(value, key)
        else:
            value = value[int(key)] if isinstance(value, list) else value[key]
    return value
