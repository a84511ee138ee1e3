"""When evaluations may be compared, and on what: classes, and pairs of the same samples."""

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
    """A class and how many of its samples were right."""

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
    only_first: int  # samples that the first alone gets right
    only_second: int
    p: float  # of the exact McNemar test


def find_mismatch(evaluations: Sequence[Evaluation]) -> str:
    """The first reason why the evaluations do not answer the same question; "" where they do."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if said := _other_target(first, other):
            return said
        if first.data.sha256 != other.data.sha256:
            a, b = first.data, other.data
            if (a.name, a.split, a.n) == (b.name, b.split, b.n) and "" != a.sampling != b.sampling != "":
                rules = f"{a.sampling!r} and {b.sampling!r}"
                return f"the samples were drawn by different rules, {rules}: evaluate both on all samples, or with one version"
            return "the data differ (SHA-256 of pixels and labels)"
        if not first.threat.same_as(other.threat):
            ours, theirs = (one.threat.text for one in (first, other))
            if ours == theirs and first.threat.eps == other.threat.eps:
                return f"the masks of the threat models differ (SHA-256, {ours})"
            return f"the threat models differ ({ours} and {theirs})"
        if said := _other_detector(first, other) or _other_version(first, other):
            return said
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
    """Where they count other classes as success; "" where they do not."""
    ours, theirs = ("any wrong class" if e.targeted is None else f"target {e.targeted.target}" for e in (first, other))
    if ours != theirs:
        return f"success means another thing ({ours} and {theirs})"
    if first.targeted is None or other.targeted is None:
        return ""
    if first.targeted.target == "random" and first.provenance.seed != other.provenance.seed:
        seeds = f"{first.provenance.seed} and {other.provenance.seed}"
        return f"the random targets were drawn by other seeds ({seeds})"
    if first.targeted.target == "one per sample" and _targets(first) != _targets(other):
        return "the samples have other targets"
    return ""


def _other_detector(first: Evaluation, other: Evaluation) -> str:
    """Where a detector refuses answers of one alone, or another share of them; "" where not. Thresholds may differ."""
    ours, theirs = (
        f"{e.rejection.detector} at fpr {e.rejection.fpr:g}" if e.rejection else "none" for e in (first, other)
    )
    return f"the detectors differ ({ours} and {theirs}): a refused answer is an error" if ours != theirs else ""


def _targets(evaluation: Evaluation) -> list[int | None]:
    return [sample.target for sample in evaluation.samples]


def _remapped(first: Evaluation, other: Evaluation) -> str:
    """Where evaluations of one model take a class of the data for different outputs; "" where they do not."""
    one, two = ((e.model.name, e.model.sha256, len(e.model.classes)) for e in (first, other))
    if one != two:
        return ""
    ours, theirs = (_outputs(evaluation) for evaluation in (first, other))
    for name, output in ours.items():
        if theirs.get(name, output) != output:
            outputs = f"{name!r} is output {output} and {theirs[name]}"
            return f"{first.model.name} was evaluated under two maps of classes ({outputs})"
    return ""


def _outputs(evaluation: Evaluation) -> dict[str, int]:
    """The output that each class of the data is."""
    mapped = evaluation.data.class_map
    if mapped is None:
        return {name: output for output, name in enumerate(evaluation.model.classes)}
    return dict(zip(mapped.classes, mapped.outputs, strict=False))


def _same_samples(first: Evaluation, second: Evaluation) -> bool:
    ours, theirs = ([(sample.index, sample.label) for sample in by_data(one)] for one in (first, second))
    return ours == theirs


def by_data(evaluation: Evaluation) -> list[Sample]:
    """The samples with labels and predictions as the data numbers its classes, whatever the model's outputs are; outputs
    that are no class of the data are numbered behind."""
    mapped = evaluation.data.class_map
    if mapped is None:
        return evaluation.samples
    own = {output: number for number, output in reversed(list(enumerate(mapped.outputs)))}

    def number(output: int | None) -> int | None:
        return None if output is None else own.get(output, len(mapped.classes) + output)  # None: no answer

    return [
        replace(s, label=own.get(s.label, s.label), clean=number(s.clean), adversarial=number(s.adversarial))
        for s in evaluation.samples
    ]


def data_class(evaluation: Evaluation, label: int) -> str:
    """The name of a class as the data numbers it."""
    names = evaluation.data.class_map.classes if evaluation.data.class_map else evaluation.model.classes
    return names[label] if 0 <= label < len(names) else f"class {label}"


def was_right(sample: Sample) -> bool:
    return sample.clean == sample.label


def held(sample: Sample) -> bool:
    """Right on the clean image and on the worst that the attacks found."""
    return sample.clean == sample.label == sample.adversarial


def count_classes(samples: Sequence[Sample]) -> list[ClassCounts]:
    """The classes that have samples, by label."""
    totals = Counter(sample.label for sample in samples)
    clean = Counter(sample.label for sample in samples if was_right(sample))
    robust = Counter(sample.label for sample in samples if held(sample))
    return [ClassCounts(label, totals[label], clean[label], robust[label]) for label in sorted(totals)]


def worst_class(counts: Sequence[ClassCounts]) -> ClassCounts:
    """The class with the lowest robust accuracy; of equals that with the most samples, then the first label."""
    return min(counts, key=lambda one: (one.accuracy, -one.total, one.label))


def pair(first: Evaluation, second: Evaluation) -> list[Pair]:
    """Clean and robust accuracy against each other, for evaluations without a mismatch."""
    return [
        _pair(part, *([right(sample) for sample in one.samples] for one in (first, second)))
        for part, right in (("clean", was_right), ("robust", held))
    ]


def _pair(part: str, ours: Sequence[bool], theirs: Sequence[bool]) -> Pair:
    difference, (low, high) = paired_difference(ours, theirs)
    _, only_first, only_second, _ = agreement(ours, theirs)
    return Pair(part, difference, low, high, only_first, only_second, mcnemar(ours, theirs))


def pair_certified(first: Evaluation, second: Evaluation) -> list[Pair]:
    """Certified accuracy against each other, for evaluations without a mismatch, at every radius of their curves of which
    both know; none where their certificates differ in how they were made."""
    ours, theirs = first.certified, second.certified
    if ours is None or theirs is None or certified_otherwise(first, second):
        return []
    curves = [{point.radius for point in one.curve} for one in (ours, theirs)]
    radii = curves[0] & curves[1] if ours.method == "bounds" else curves[0] | curves[1]
    places = sorted(sample.index for sample in ours.samples)
    pairs = []
    for radius in sorted(radii - {0.0}):
        if tried_at(ours, radius) is None or tried_at(theirs, radius) is None:
            continue
        found = [{sample.index: sample.holds(radius) for sample in one.samples} for one in (ours, theirs)]
        pairs.append(_pair(f"certified {ours.text(radius)}", *([one[place] for place in places] for one in found)))
    return pairs


def certified_otherwise(first: Evaluation, other: Evaluation) -> str:
    """Why a difference of their certified accuracies would be one of the proofs, not of the classifiers; "" where neither, or
    where it would not. The noise of smoothing is the classifier's own: it may differ."""
    ours, theirs = first.certified, other.certified
    if ours is None or theirs is None:
        return "" if ours is theirs else "one of them has no certificates"
    for what, a, b in (
        ("the methods", ours.method, theirs.method),
        ("the norms", ours.norm, theirs.norm),
        ("the numbers of draws", ours.n, theirs.n),
        ("the numbers of draws that choose", ours.n0, theirs.n0),
        ("the alphas", ours.alpha, theirs.alpha),
        ("the algorithms", ours.algorithm, theirs.algorithm),
    ):
        if a != b:
            return f"{what} differ ({a} and {b})"
    return ""


def _other_version(first: Evaluation, other: Evaluation) -> str:
    """Which suite they ran in different versions; "" for none."""
    ours, theirs = first.suite_versions, other.suite_versions
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            old = in_version(name, min(ours[name], theirs[name]))
            return (
                f"the suite {name} is version {ours[name]} and {theirs[name]}: evaluate again, or take the older one, "
                f"`suite={old}`"
            )
    return ""


def outdated_suites(evaluation: Evaluation) -> str:
    """Which suites it ran in another version than today's, in one line; "" for none."""
    said = []
    for name, version in evaluation.suite_versions.items():
        now = plugins.resolved("suite", name).get("version", 1) if name in plugins.names("suite") else version
        if version != now:
            said.append(f"the suite {name} of this evaluation is version {version}, today's is {now}")
    return "; ".join(said)


def in_version(suite: str, version: int) -> str:
    """The spec of a suite in one of its versions; a suite without versions has the first alone."""
    return f"{suite}(version={version})" if "version" in plugins.resolved("suite", suite) else suite


def _attacks(evaluation: Evaluation) -> list[tuple[str, dict[str, Any]]]:
    """Options that the version which wrote it did not know yet have their defaults."""
    return [(attack.name, defaults_of(plugin_of(attack.name)) | attack.options) for attack in evaluation.attacks]


def plugin_of(recorded: str) -> str:
    """The plug-in behind a recorded name, which is a spec with a number where several attacks share the plug-in."""
    return re.sub(r" #\d+$", "", recorded).partition("(")[0].strip()


def defaults_of(attack: str) -> dict[str, Any]:
    """The defaults that the attack's source writes as literals; reading them imports no torch."""
    found: dict[str, Any] = {}
    for option in next((one.options for one in plugins.describe("attack") if one.name == attack), ()):
        with suppress(ValueError, SyntaxError):
            found[option.name] = ast.literal_eval(option.default)
    return found
