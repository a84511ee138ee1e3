"""Everything that one evaluation measured."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import field
from html import escape
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic.dataclasses import dataclass

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.measures import measures, with_fields
from robustcls.core.threat import BALL, parse_eps
from robustcls.results.accuracy import Accuracy, Balanced, TwoClasses
from robustcls.results.certified import Certified
from robustcls.results.fields import SLACK, need
from robustcls.results.json_files import JsonFile
from robustcls.results.robustness import Attack, Check, CurvePoint, Rejection, Sample, Targeted, UnderNoise
from robustcls.results.severity import Severity
from robustcls.results.subject import Data, Model, Provenance, Threat
from robustcls.results.training import Training

if TYPE_CHECKING:
    from robustcls.evaluation.examples import Examples
    from robustcls.evaluation.measures.artefact.record import Artefact
    from robustcls.evaluation.measures.calibration.record import Calibration
    from robustcls.evaluation.measures.corruptions.record import Corruptions
    from robustcls.evaluation.measures.gallery.record import Gallery
    from robustcls.evaluation.measures.minimum.record import MinimumNorm
    from robustcls.evaluation.measures.other_curves.record import NormCurve
    from robustcls.results.attribution import Explanations

SCHEMA = "robustcls/evaluation/1"
BOUND = "upper bound: "


# Each measure of evaluation/measures has a field, None where it was not taken. Those that are declared below, too, keep the
# place in the file that they have always had, and their types for a type checker; others follow at the end.
@dataclass
@with_fields({measure.name: (measure.load("record").RECORD | None, None) for measure in measures()})
class Evaluation(JsonFile):
    """Everything that one evaluation measured: `Evaluation.load(path)`, `evaluation.save(path)`."""

    WRITER: ClassVar[str] = "`robustcls attack`"

    model: Model
    data: Data
    threat: Threat
    clean: Accuracy
    robust: Accuracy
    attacks: list[Attack]
    checks: list[Check]
    samples: list[Sample]
    provenance: Provenance
    gallery: "Gallery | None" = None
    training: Training | None = None
    curve: list[CurvePoint] | None = None  # by radius, from the smallest
    explanations: "Explanations | None" = None
    other_curves: "list[NormCurve] | None" = None  # in other norms than the threat model's
    minimum: "list[MinimumNorm] | None" = None
    calibration: "Calibration | None" = None
    corruptions: "Corruptions | None" = None
    profile: str = ""  # the profile that chose what to measure
    not_run: dict[str, str] = field(default_factory=dict)  # section: why it was left out
    intended_use: str = ""  # of the model, as its owner states it
    surrogate: Model | None = None  # the model on which the examples were crafted, where that is another one
    schema: str = SCHEMA
    reduced: dict[str, str] = field(default_factory=dict)  # section: from how many samples to how many, and why
    balanced: Balanced | None = None
    two_classes: TwoClasses | None = None
    license: str = ""  # of the model, as its owner states it: an SPDX identifier
    artefact: "Artefact | None" = None  # of a model that is an exported file
    targeted: Targeted | None = None  # where the attacks aim at a class; None: any wrong one counts
    rejection: Rejection | None = None  # of a model with a detector beside it
    under_noise: UnderNoise | None = None  # of a model that is random at prediction; else, and in earlier files, None
    suites: dict[str, int] = field(default_factory=dict)  # the version of each suite that was run; see `suite_versions`
    severity: Severity | None = None  # of the mistakes, by a tree of the classes, where one was given
    certified: Certified | None = (
        None  # a lower bound, of the same classifier in the same norm; None where none was proven
    )

    # Of one that was just made, in memory. No field, for no file holds them: None of one that was loaded.
    examples = cast("Examples", None)

    def __str__(self) -> str:
        """What was measured and what came out, in a few lines."""
        noisy = self.under_noise
        lines = [
            f"{self.model.name} on {self.data.name} ({self.data.split}, n = {self.data.n}), {self._threat_text}",
            f"  clean    {self.clean}",
            f"  robust   {self.robust}  {self.robust.kind}".rstrip(),
            *([f"  target   {say_reached(self.targeted)}"] if self.targeted else []),
            *(f"  bound    {text}" for text in say_bounds(self)),
            *([f"  tree     mistakes {say_severity(self.severity)}"] if self.severity else []),
            *([f"  one pass clean {noisy.clean}, robust {noisy.robust}, over {noisy.passes} passes"] if noisy else []),
            f"  attacks  {', '.join(_outcome(attack) for attack in self.attacks) or 'none'}",
            *([f"  proven   {say_certified(self.certified)}"] if self.certified else []),
        ]
        for status, what in (("fail", "failed"), ("warn", "warning")):
            if names := [check.id for check in self.checks if check.status == status]:
                lines.append(f"  {what:<8} {', '.join(names)}")
        measured = [one.name for one in measures() if one.held_by(self)]
        return "\n".join([*lines, *([f"  also     {', '.join(measured)}"] if measured else [])])

    def __repr__(self) -> str:
        found = f"clean {self.clean.accuracy:.1%}, robust {self.robust.accuracy:.1%}"
        return f"<Evaluation of {self.model.name} on {self.data.name}, n = {self.data.n}, {self._threat_text}: {found}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def _threat_text(self) -> str:
        return f"{self.threat.norm}:{self.threat.eps_text}{self.threat.limits}"

    def check(self) -> None:
        """Raises ValueError, with the first place, where numbers contradict each other: a file that was edited or damaged."""
        self._check_totals()
        self._check_samples()
        self._check_attacks()
        self._check_radii()
        self._check_certified()

    @property
    def suite_versions(self) -> dict[str, int]:
        """The version of each suite that was run, by its name. Evaluations that name none are older: version 1."""
        named = self.robust.kind.removeprefix(BOUND).partition(";")[0].split(", ")
        return self.suites or {one: 1 for one in named if one in plugins.names("suite")}

    @property
    def kind_text(self) -> str:
        """What robust accuracy is called after, a suite of several versions with its own: `upper bound: fast, version 2`."""
        named, semicolon, rest = self.robust.kind.removeprefix(BOUND).partition(";")
        words = ", ".join(map(self._with_version, named.split(", ")))
        return f"{BOUND if self.robust.kind.startswith(BOUND) else ''}{words}{semicolon}{rest}"

    def _with_version(self, attack: str) -> str:
        suite = attack.partition("(")[0]
        version = self.suite_versions.get(suite)
        if version is None or suite not in plugins.names("suite") or "version" not in plugins.resolved("suite", suite):
            return attack
        return f"{suite}, version {version}"

    def _check_totals(self) -> None:
        clean, robust, samples = self.clean, self.robust, self.samples
        if clean.total != robust.total or robust.correct > clean.correct:
            raise ValueError(
                f"robust: {robust.correct} of {robust.total} cannot be, with {clean.correct} of {clean.total} right on "
                "clean images"
            )
        right = sum(one.clean == one.label for one in samples)
        held = sum(one.clean == one.label == one.adversarial for one in samples)
        for part, found, counted in (("clean", clean, right), ("robust", robust, held)):
            if samples and (found.correct, found.total) != (counted, len(samples)):
                raise ValueError(
                    f"{part}: {found.correct} of {found.total}, but its samples hold {counted} of {len(samples)}"
                )

        if self.severity:
            for part, found in (("clean", clean), ("robust", robust)):
                total, wrong = getattr(self.severity, part).total, found.total - found.correct
                need(total == wrong, f"severity.{part}", total, f"the {wrong} mistakes that {part} accuracy leaves")
        if self.targeted:
            reached, lost = self.targeted.reached, clean.correct - robust.correct
            same = (reached.correct, reached.total) == (lost, clean.correct)
            need(same, "targeted.reached", str(reached), f"the {lost} that robust accuracy lacks, of {clean.correct}")

    def _check_samples(self) -> None:
        ran, seen = {attack.name for attack in self.attacks}, set()
        for place, one in enumerate(self.samples):
            need(one.index not in seen, f"samples.{place}.index", one.index, "a sample of its own")
            seen.add(one.index)
            aims = self.targeted is not None
            need((one.target is not None) == aims, f"samples.{place}.target", one.target, "a class where attacks aim")
            need(one.target != one.label, f"samples.{place}.target", one.target, "another class than its label")
            for holds, key, what in _demands(one, self.threat, ran):
                need(holds, f"samples.{place}.{key}", getattr(one, key), what)

    def _check_attacks(self) -> None:
        """What the attacks broke, one after another, is what robust accuracy lacks."""
        left, total = self.clean.correct, self.clean.total
        by = Counter(one.broken_by for one in self.samples)
        for place, attack in enumerate(self.attacks):
            path, broken = f"attacks.{place}", attack.broken
            need(broken <= attack.attacked, f"{path}.broken", broken, f"at most the {attack.attacked} that it attacked")
            counted = by[attack.name] if by else broken
            need(broken == counted, f"{path}.broken", broken, f"{counted}, as its samples say")
            left -= broken
            close = not total or abs(attack.robust_accuracy - left / total) < SLACK
            need(close, f"{path}.robust_accuracy", attack.robust_accuracy, f"{left} of {total}, the rest after it")
        same = not self.attacks or self.robust.correct == left
        need(same, "robust.correct", self.robust.correct, f"the {left} that the attacks left")

    def _check_radii(self) -> None:
        """A radius is the same as text; a curve passes through robust accuracy and cannot rise."""
        threat, robust = self.threat, self.robust.correct
        _need_text(threat, "threat")
        before: CurvePoint | None = None
        for place, point in enumerate(self.curve or []):
            path, count = f"curve.{place}", point.robust.correct
            _need_text(point, path)
            falls = before is None or point.eps < before.eps or count <= before.robust.correct
            need(falls, f"{path}.robust.correct", count, "at most that of a smaller radius")
            same = point.eps != threat.eps or count == robust
            need(same, f"{path}.robust.correct", count, f"robust accuracy, {robust}, at its eps")
            before = point

    def _check_certified(self) -> None:
        """The certificates are about the same samples, in the norm of the threat."""
        if self.certified is None:
            return
        self.certified.check()
        need(self.certified.norm == self.threat.norm, "certified.norm", self.certified.norm, self.threat.norm)
        ours, its = ([(one.index, one.label) for one in samples] for samples in (self.samples, self.certified.samples))
        need(
            sorted(ours) == sorted(its),
            "certified.samples",
            f"{len(its)}",
            "the samples that were evaluated, with their labels",
        )


def _demands(one: Sample, threat: Threat, ran: set[str]) -> Iterator[tuple[bool, str, str]]:
    """A broken sample has an example in the ball, of another label, by an attack that ran; another has none."""
    if one.broken_by is None:
        near = min((far for far in (one.nearest or {}).values() if far is not None), default=math.inf)
        missed = one.clean == one.label and near <= threat.eps * (1 - SLACK)
        yield one.adversarial == one.clean, "adversarial", "the clean label of an unbroken sample"
        yield one.distance is None, "distance", "that of a sample that nothing broke"
        yield not missed, "nearest", "that of a sample that nothing broke in the ball"
        yield not one.fooled_by, "fooled_by", "of a sample that nothing broke"
        return
    reach = threat.eps + BALL + threat.eps * SLACK  # of verified examples; `nearest` may lie farther
    by = one.fooled_by if one.fooled_by is not None else [one.broken_by]
    yield one.broken_by in ran, "broken_by", "an attack that ran"
    yield one.clean == one.label, "broken_by", "able to break what is misclassified without it"
    yield one.adversarial != one.label, "adversarial", "another label, as a broken sample has"
    yield one.target in (None, one.adversarial), "adversarial", "the target, as a broken sample has it"
    yield (one.distance is not None and one.distance <= reach), "distance", f"inside the ball of eps {threat.eps_text}"
    listed = one.broken_by in by and ran.issuperset(by)
    yield listed, "fooled_by", "a list of attacks that ran, with broken_by among them"


def _need_text(radius: Threat | CurvePoint, path: str) -> None:
    try:
        same = math.isclose(parse_eps(radius.eps_text), radius.eps, rel_tol=1e-3, abs_tol=1e-9)
    except InputError:
        same = False
    need(same, f"{path}.eps_text", radius.eps_text, f"{radius.eps:.6g} as text")


def say_bounds(evaluation: Evaluation) -> list[str]:
    """What attacks would break at most of the samples that they did not meet, in words; none where each met all."""
    said = []
    for one in evaluation.attacks:
        if one.at_most is not None and one.sampled_from is not None:
            points = 100 * one.at_most * one.sampled_from / evaluation.robust.total
            said.append(
                f"{one.name} met {one.attacked:,} of the {one.sampled_from:,} samples left, drawn at random, and broke none: "
                f"with 95% confidence it would break at most {one.at_most:.1%} of them, {points:.1f} points"
            )
    return said


def say_severity(found: Severity) -> str:
    """How far up the tree mistakes are, clean and under attack, in words."""
    return f"clean {found.clean}; under attack {found.robust}; at most {found.height} edges"


def say_reached(found: Targeted) -> str:
    """The share of samples that reached their target, in words."""
    left_out = f"; {found.left_out} samples of that class left out" if found.left_out else ""
    return f"{found.target}: reached by {found.reached} right on clean images{left_out}"


def say_certified(found: Certified) -> str:
    """Certified accuracy by radius, in words: `smoothing, l2: 74.8% at 0, 60.0% at 0.25`."""
    listed = ", ".join(f"{one.accuracy:.1%} at {found.text(one.radius)}" for one in found.curve)
    return f"{found.method}, {found.norm}: {listed}"


def _outcome(attack: Attack) -> str:
    return f"{attack.name} (failed)" if attack.error else f"{attack.name} (broke {attack.broken} of {attack.attacked})"
