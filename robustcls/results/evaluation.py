"""The record of an evaluation: all its results."""

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


# Each measure in evaluation/measures has a field, which is None if it was not measured. The fields that are also declared
# below keep their traditional position in the file and have types for a type checker. All others follow at the end.
@dataclass
@with_fields({measure.name: (measure.load("record").RECORD | None, None) for measure in measures()})
class Evaluation(JsonFile):
    """All results of one evaluation. Read and write it with `Evaluation.load(path)` and `evaluation.save(path)`."""

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
    curve: list[CurvePoint] | None = None  # by radius, in ascending order
    explanations: "Explanations | None" = None
    other_curves: "list[NormCurve] | None" = None  # in norms other than that of the threat model
    minimum: "list[MinimumNorm] | None" = None
    calibration: "Calibration | None" = None
    corruptions: "Corruptions | None" = None
    profile: str = ""  # the profile that selected what to measure
    not_run: dict[str, str] = field(default_factory=dict)  # section -> why it was left out
    intended_use: str = ""  # intended use of the model, as stated by its owner
    surrogate: Model | None = None  # the model on which the examples were crafted, if it is not the evaluated model
    schema: str = SCHEMA
    reduced: dict[str, str] = field(default_factory=dict)  # section -> the reduction of its samples, and why
    balanced: Balanced | None = None
    two_classes: TwoClasses | None = None
    license: str = ""  # license of the model, as stated by its owner: an SPDX identifier
    artefact: "Artefact | None" = None  # results on the exported file, if the model is one
    targeted: Targeted | None = None  # targeted attacks; None: untargeted, any wrong class counts
    rejection: Rejection | None = None  # results with a detector; None without one
    under_noise: UnderNoise | None = None  # single passes of a random model; None for others and in older files
    suites: dict[str, int] = field(default_factory=dict)  # version of each suite that was run; see `suite_versions`
    severity: Severity | None = None  # severity of the errors by a tree of the classes, if one was given
    certified: Certified | None = None  # certificates of the same classifier in the same norm: a lower bound

    # The adversarial examples in memory, for an evaluation that was just run. They are not stored in the file, so this is not
    # a field, and it is None for a loaded evaluation.
    examples = cast("Examples", None)

    def __str__(self) -> str:
        """Return the results in a few lines."""
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
        for status, word in (("fail", "failed"), ("warn", "warning")):
            if names := [check.id for check in self.checks if check.status == status]:
                lines.append(f"  {word:<8} {', '.join(names)}")
        measured = [one.name for one in measures() if one.held_by(self)]
        return "\n".join([*lines, *([f"  also     {', '.join(measured)}"] if measured else [])])

    def __repr__(self) -> str:
        accuracies = f"clean {self.clean.accuracy:.1%}, robust {self.robust.accuracy:.1%}"
        return f"<Evaluation of {self.model.name} on {self.data.name}, n = {self.data.n}, {self._threat_text}: {accuracies}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def _threat_text(self) -> str:
        return f"{self.threat.norm}:{self.threat.eps_text}{self.threat.limits}"

    def check(self) -> None:
        """Raise ValueError for the first contradiction between numbers, as in a file that was edited or damaged."""
        self._check_totals()
        self._check_samples()
        self._check_attacks()
        self._check_radii()
        self._check_certified()

    @property
    def suite_versions(self) -> dict[str, int]:
        """The version of each suite that was run, by name. Older evaluations do not record versions: version 1."""
        named = self.robust.kind.removeprefix(BOUND).partition(";")[0].split(", ")
        return self.suites or {one: 1 for one in named if one in plugins.names("suite")}

    @property
    def kind_text(self) -> str:
        """The attacks that robust accuracy refers to, with the version of the suite: `upper bound: fast, version 2`."""
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
        for part, accuracy, counted in (("clean", clean, right), ("robust", robust, held)):
            if samples and (accuracy.correct, accuracy.total) != (counted, len(samples)):
                raise ValueError(
                    f"{part}: {accuracy.correct} of {accuracy.total}, but its samples hold {counted} of {len(samples)}"
                )

        if self.severity:
            for part, accuracy in (("clean", clean), ("robust", robust)):
                total, wrong = getattr(self.severity, part).total, accuracy.total - accuracy.correct
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
        """The samples broken by the attacks must add up to the difference between clean and robust accuracy."""
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
        """Radii must agree with their texts. A curve must contain robust accuracy and must not rise."""
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
        """The certificates must be about the same samples, in the norm of the threat model."""
        if self.certified is None:
            return
        self.certified.check()
        need(self.certified.norm == self.threat.norm, "certified.norm", self.certified.norm, self.threat.norm)
        own, certified = (
            sorted((one.index, one.label) for one in samples) for samples in (self.samples, self.certified.samples)
        )
        need(
            own == certified,
            "certified.samples",
            f"{len(certified)}",
            "the samples that were evaluated, with their labels",
        )


def _demands(one: Sample, threat: Threat, ran: set[str]) -> Iterator[tuple[bool, str, str]]:
    """Yield the consistency conditions of a sample: (holds, key, what it must be).

    A broken sample has a misclassified example in the ball, found by an attack that ran; other samples have none.
    """
    if one.broken_by is None:
        near = min((far for far in (one.nearest or {}).values() if far is not None), default=math.inf)
        missed = one.clean == one.label and near <= threat.eps * (1 - SLACK)
        yield one.adversarial == one.clean, "adversarial", "the clean label of an unbroken sample"
        yield one.distance is None, "distance", "that of a sample that nothing broke"
        yield not missed, "nearest", "that of a sample that nothing broke in the ball"
        yield not one.fooled_by, "fooled_by", "of a sample that nothing broke"
        return
    reach = threat.eps + BALL + threat.eps * SLACK  # limit for verified examples; `nearest` may be farther away
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
    """Return sentences about the share of samples that attacks run on random subsets would break at most; none otherwise."""
    lines = []
    for one in evaluation.attacks:
        if one.at_most is not None and one.sampled_from is not None:
            points = 100 * one.at_most * one.sampled_from / evaluation.robust.total
            lines.append(
                f"{one.name} met {one.attacked:,} of the {one.sampled_from:,} samples left, drawn at random, and broke none: "
                f"with 95% confidence it would break at most {one.at_most:.1%} of them, {points:.1f} points"
            )
    return lines


def say_severity(severity: Severity) -> str:
    """Return the severity of errors, clean and under attack, in words."""
    return f"clean {severity.clean}; under attack {severity.robust}; at most {severity.height} edges"


def say_reached(targeted: Targeted) -> str:
    """Return the share of samples that reached their target class, in words."""
    left_out = f"; {targeted.left_out} samples of that class left out" if targeted.left_out else ""
    return f"{targeted.target}: reached by {targeted.reached} right on clean images{left_out}"


def say_certified(certified: Certified) -> str:
    """Return certified accuracy by radius as text: `smoothing, l2: 74.8% at 0, 60.0% at 0.25`."""
    listed = ", ".join(f"{one.accuracy:.1%} at {certified.text(one.radius)}" for one in certified.curve)
    return f"{certified.method}, {certified.norm}: {listed}"


def _outcome(attack: Attack) -> str:
    return f"{attack.name} (failed)" if attack.error else f"{attack.name} (broke {attack.broken} of {attack.attacked})"
