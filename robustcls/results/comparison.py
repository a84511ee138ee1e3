"""Comparison of evaluations: whether they are comparable, counts per class, and paired differences."""

import ast
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from robustcls.core import plugins
from robustcls.results.bracket import tried_at
from robustcls.results.records import Evaluation, Sample
from robustcls.results.statistics import agreement, mcnemar, paired_difference


@dataclass(frozen=True)
class ClassCounts:
    """The number of samples of a class, and of those classified correctly on clean images and under attack."""

    label: int
    total: int
    clean: int
    robust: int

    @property
    def accuracy(self) -> float:
        """Robust accuracy."""
        return self.robust / self.total

    @property
    def drop(self) -> float:
        return (self.clean - self.robust) / self.total


@dataclass(frozen=True)
class Pair:
    """Two evaluations on the same samples: accuracy of the second minus that of the first."""

    part: str  # clean | robust | certified 0.25
    difference: float
    low: float  # of its 95% interval
    high: float
    only_first: int  # samples that only the first classifies correctly
    only_second: int
    p: float  # p-value of the exact McNemar test


def find_mismatch(evaluations: Sequence[Evaluation]) -> str:
    """Return the first reason why the evaluations are not comparable; "" if they are."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if reason := _other_target(first, other):
            return reason
        if first.data.sha256 != other.data.sha256:
            a, b = first.data, other.data
            if (a.name, a.split, a.n) == (b.name, b.split, b.n) and "" != a.sampling != b.sampling != "":
                rules = f"{a.sampling!r} and {b.sampling!r}"
                return f"the samples were drawn by different rules, {rules}: evaluate both on all samples, or with one version"
            return "the data differ (SHA-256 of pixels and labels)"
        if not first.threat.same_as(other.threat):
            a_text, b_text = (one.threat.text for one in (first, other))
            if a_text == b_text and first.threat.eps == other.threat.eps:
                return f"the masks of the threat models differ (SHA-256, {a_text})"
            return f"the threat models differ ({a_text} and {b_text})"
        if reason := _other_detector(first, other) or _other_version(first, other):
            return reason
        if _attacks(first) != _attacks(other):
            return "the attacks or their options differ"
        if moved := _remapped(first, other):
            return moved
        if not _same_samples(first, other):
            return "the sample indices or labels differ"
        if not first.samples:
            return "the evaluations hold no samples to pair"
    return ""


def _other_target(first: Evaluation, other: Evaluation) -> str:
    """Return the reason if different classes count as success in the two evaluations, else ""."""
    a, b = ("any wrong class" if e.targeted is None else f"target {e.targeted.target}" for e in (first, other))
    if a != b:
        return f"the definitions of success differ ({a} and {b})"
    if first.targeted is None or other.targeted is None:
        return ""
    if first.targeted.target == "random" and first.provenance.seed != other.provenance.seed:
        seeds = f"{first.provenance.seed} and {other.provenance.seed}"
        return f"the random targets were drawn with different seeds ({seeds})"
    if first.targeted.target == "one per sample" and _targets(first) != _targets(other):
        return "the targets of the samples differ"
    return ""


def _other_detector(first: Evaluation, other: Evaluation) -> str:
    """Return the reason if the evaluations have different detectors or different fpr, else "". Thresholds may differ."""
    a, b = (f"{e.rejection.detector} at fpr {e.rejection.fpr:g}" if e.rejection else "none" for e in (first, other))
    return f"the detectors differ ({a} and {b}): a rejected prediction is an error" if a != b else ""


def _targets(evaluation: Evaluation) -> list[int | None]:
    return [sample.target for sample in evaluation.samples]


def _remapped(first: Evaluation, other: Evaluation) -> str:
    """Return the reason if evaluations of the same model map a class of the data to different outputs, else ""."""
    one, two = ((e.model.name, e.model.sha256, len(e.model.classes)) for e in (first, other))
    if one != two:
        return ""
    first_map, other_map = (_outputs(evaluation) for evaluation in (first, other))
    for name, output in first_map.items():
        if other_map.get(name, output) != output:
            outputs = f"{name!r} is output {output} and {other_map[name]}"
            return f"{first.model.name} was evaluated under two maps of classes ({outputs})"
    return ""


def _outputs(evaluation: Evaluation) -> dict[str, int]:
    """Return the model's output for each class of the data."""
    mapped = evaluation.data.class_map
    if mapped is None:
        return {name: output for output, name in enumerate(evaluation.model.classes)}
    return dict(zip(mapped.classes, mapped.outputs, strict=False))


def _same_samples(first: Evaluation, second: Evaluation) -> bool:
    first_samples, second_samples = (
        [(sample.index, sample.label) for sample in by_data(one)] for one in (first, second)
    )
    return first_samples == second_samples


def by_data(evaluation: Evaluation) -> list[Sample]:
    """Return the samples with labels and predictions in the class numbers of the data instead of the model's outputs.

    Outputs that are not a class of the data get numbers after the classes of the data.
    """
    mapped = evaluation.data.class_map
    if mapped is None:
        return evaluation.samples
    own = {output: number for number, output in reversed(list(enumerate(mapped.outputs)))}

    def number(output: int | None) -> int | None:
        return None if output is None else own.get(output, len(mapped.classes) + output)  # None: no predicted class

    return [
        replace(s, label=own.get(s.label, s.label), clean=number(s.clean), adversarial=number(s.adversarial))
        for s in evaluation.samples
    ]


def data_class(evaluation: Evaluation, label: int) -> str:
    """Return the name of a class by its number in the data."""
    names = evaluation.data.class_map.classes if evaluation.data.class_map else evaluation.model.classes
    return names[label] if 0 <= label < len(names) else f"class {label}"


def was_right(sample: Sample) -> bool:
    return sample.clean == sample.label


def held(sample: Sample) -> bool:
    """Whether a sample is classified correctly on the clean image and on the worst image that the attacks found."""
    return sample.clean == sample.label == sample.adversarial


def count_classes(samples: Sequence[Sample]) -> list[ClassCounts]:
    """Return the counts of the classes that have samples, sorted by label."""
    totals = Counter(sample.label for sample in samples)
    clean = Counter(sample.label for sample in samples if was_right(sample))
    robust = Counter(sample.label for sample in samples if held(sample))
    return [ClassCounts(label, totals[label], clean[label], robust[label]) for label in sorted(totals)]


def worst_class(counts: Sequence[ClassCounts]) -> ClassCounts:
    """Return the class with the lowest robust accuracy. Ties are broken by more samples, then by the lower label."""
    return min(counts, key=lambda one: (one.accuracy, -one.total, one.label))


def pair(first: Evaluation, second: Evaluation) -> list[Pair]:
    """Return the paired differences in clean and robust accuracy of two comparable evaluations."""
    return [
        _pair(part, *([right(sample) for sample in one.samples] for one in (first, second)))
        for part, right in (("clean", was_right), ("robust", held))
    ]


def _pair(part: str, first: Sequence[bool], second: Sequence[bool]) -> Pair:
    difference, (low, high) = paired_difference(first, second)
    _, only_first, only_second, _ = agreement(first, second)
    return Pair(part, difference, low, high, only_first, only_second, mcnemar(first, second))


def pair_certified(first: Evaluation, second: Evaluation) -> list[Pair]:
    """Return the paired differences in certified accuracy of two comparable evaluations, at all radii that both cover.

    There are none if the certificates were computed in different ways.
    """
    one, other = first.certified, second.certified
    if one is None or other is None or certified_otherwise(first, second):
        return []
    curves = [{point.radius for point in record.curve} for record in (one, other)]
    radii = curves[0] & curves[1] if one.method == "bounds" else curves[0] | curves[1]
    indices = sorted(sample.index for sample in one.samples)
    pairs = []
    for radius in sorted(radii - {0.0}):
        if tried_at(one, radius) is None or tried_at(other, radius) is None:
            continue
        holds = [{sample.index: sample.holds(radius) for sample in record.samples} for record in (one, other)]
        pairs.append(_pair(f"certified {one.text(radius)}", *([held[index] for index in indices] for held in holds)))
    return pairs


def certified_otherwise(first: Evaluation, other: Evaluation) -> str:
    """Return the reason if certified accuracies are not comparable because the certificates were computed differently.

    "" if they are comparable, or if neither evaluation has certificates. The noise of smoothing belongs to the classifier,
    so it may differ.
    """
    one, two = first.certified, other.certified
    if one is None or two is None:
        return "" if one is two else "one of them has no certificates"
    for setting, a, b in (
        ("the methods", one.method, two.method),
        ("the norms", one.norm, two.norm),
        ("the numbers of draws", one.n, two.n),
        ("the numbers of draws that choose the class", one.n0, two.n0),
        ("the alphas", one.alpha, two.alpha),
        ("the algorithms", one.algorithm, two.algorithm),
    ):
        if a != b:
            return f"{setting} differ ({a} and {b})"
    return ""


def _other_version(first: Evaluation, other: Evaluation) -> str:
    """Return the reason if a suite was run in different versions, else ""."""
    one, two = first.suite_versions, other.suite_versions
    for name in one.keys() & two.keys():
        if one[name] != two[name]:
            old = in_version(name, min(one[name], two[name]))
            return (
                f"the suite {name} is version {one[name]} and {two[name]}: evaluate again, or take the older one, "
                f"`suite={old}`"
            )
    return ""


def outdated_suites(evaluation: Evaluation) -> str:
    """Return one line about suites that were run in another version than the current one; "" for none."""
    notes = []
    for name, version in evaluation.suite_versions.items():
        now = plugins.resolved("suite", name).get("version", 1) if name in plugins.names("suite") else version
        if version != now:
            notes.append(f"the suite {name} of this evaluation is version {version}, today's is {now}")
    return "; ".join(notes)


def in_version(suite: str, version: int) -> str:
    """Return the spec of a suite in a version. A suite without versions has only the first."""
    return f"{suite}(version={version})" if "version" in plugins.resolved("suite", suite) else suite


def _attacks(evaluation: Evaluation) -> list[tuple[str, dict[str, Any]]]:
    """Return the attacks with their options. Options that are missing in older files get their defaults."""
    return [(attack.name, defaults_of(plugin_of(attack.name)) | attack.options) for attack in evaluation.attacks]


def plugin_of(recorded: str) -> str:
    """Return the plug-in of a recorded attack name, which is a spec, with a number if attacks share the plug-in."""
    return re.sub(r" #\d+$", "", recorded).partition("(")[0].strip()


def defaults_of(attack: str) -> dict[str, Any]:
    """Return the literal defaults in an attack's source, which is read without importing torch."""
    defaults: dict[str, Any] = {}
    for option in next((one.options for one in plugins.describe("attack") if one.name == attack), ()):
        with suppress(ValueError, SyntaxError):
            defaults[option.name] = ast.literal_eval(option.default)
    return defaults
