"""Whether attacks broke what is proven: the samples of an evaluation against its certificates, by index; without PyTorch."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from robustcls.core.threat import BALL
from robustcls.results.certified import HOLDS
from robustcls.results.records import Certified, Check, Evaluation, Sample

CHECK = "certificates"
CHANCE = 0.001  # with which so many certificates by smoothing are false by chance that the check fails
NO_ANSWER = -1  # of a vote that is too close
_COUNTED = re.compile(r"(\d+) of \d+ certified samples are ")  # how the message of a check that found some begins
WITHOUT = (
    "their examples are not at hand, so that the vote cannot be asked with more draws: certify first, then attack with the "
    "same `out`, or give the examples"
)


@dataclass(frozen=True)
class Contradiction:
    """A sample that is certified and was broken no farther away than that."""

    index: int
    label: int
    radius: float  # of the certificate
    distance: float  # of the nearest example, in the certificate's norm; 0 where the clean image is misclassified

    def __str__(self) -> str:
        how = f"broken at {self.distance:.6g}" if self.distance else "misclassified unchanged"
        return f"sample {self.index}, {how} and certified to {self.radius:.6g}"


def reach(radius: float) -> float:
    """How far an example may lie to be inside a certificate: as far as one may to count as inside the ball of that radius, for
    the certificate says that an evaluation at this radius leaves the sample."""
    return radius * (1 + HOLDS) + BALL


def contradictions(evaluation: Evaluation, more: Mapping[int, float] | None = None) -> dict[int, Contradiction]:
    """By index, the samples whose nearest known example lies inside their certificate.

    By the example that broke it, the distances of minimum-norm attacks in the certificates' norm, and the clean image where
    that is misclassified. more: by index, distances of other examples that were verified.
    """
    assert evaluation.certified is not None
    proven = {one.index: one.radius for one in evaluation.certified.samples if one.holds(0) and one.radius > 0}
    nearest = dict(more or {})
    for index, distance in _distances(evaluation):
        nearest[index] = min(distance, nearest.get(index, distance))
    labels = {one.index: one.label for one in evaluation.certified.samples}
    return {
        index: Contradiction(index, labels[index], proven[index], distance)
        for index, distance in sorted(nearest.items())
        if index in proven and distance <= reach(proven[index])
    }


def _distances(evaluation: Evaluation) -> Iterator[tuple[int, float]]:
    certified = evaluation.certified
    assert certified is not None
    right = {one.index for one in evaluation.samples if one.clean == one.label}
    if evaluation.threat.norm == certified.norm:
        for one in evaluation.samples:
            yield from ((one.index, distance) for distance in _of_sample(one))
    for found in evaluation.minimum or []:
        if found.norm == certified.norm:
            pairs = zip(found.index, found.distance, strict=True) if found.distance else ()
            yield from ((index, far) for index, far in pairs if far is not None and index in right)


def _of_sample(one: Sample) -> Iterator[float]:
    if one.clean != one.label:
        yield 0.0
    if one.broken_by is not None and one.distance is not None:
        yield one.distance
    yield from (far for far in (one.nearest or {}).values() if far is not None)


def more_by_counts(evaluation: Evaluation, found: Mapping[int, Contradiction]) -> tuple[int, str]:
    """How many more samples contradict their certificates at least, by the counts of the curves, and where, in words.

    A curve has no samples. Where it leaves fewer than are certified at a radius, the difference is of certified ones, and
    all that are known of may be among them.
    """
    certified = evaluation.certified
    assert certified is not None
    points = list(evaluation.curve or []) if evaluation.threat.norm == certified.norm else []
    for curve in evaluation.other_curves or []:
        points += curve.points if curve.norm == certified.norm and curve.n == len(certified.samples) else []
    most, said = 0, ""
    for point in points:
        proven, left = certified.at(point.eps).correct, point.robust.correct
        known = sum(reach(one.radius) >= point.eps for one in found.values())
        if proven - left - known > most:
            most = proven - left - known
            said = f"at {point.eps_text} the attacks leave {left} samples, and {proven} are certified"
    return most, said


def check_of(
    evaluation: Evaluation, found: Mapping[int, Contradiction], answers: Mapping[int, int] | None = None
) -> Check | None:
    """The check of what was found; None where there are no certificates, or no attacks.

    answers: of smoothing, by index, the class that the vote of many draws gives for its examples, NO_ANSWER where it abstains;
    an index is missing where it was not asked.
    """
    record = evaluation.certified
    if record is None or not evaluation.attacks:
        return None
    more, where = more_by_counts(evaluation, found)
    proven = sum(one.holds(0) and one.radius > 0 for one in record.samples)
    if not found and not more:
        what = (
            f"no attack broke one of the {proven} certified samples inside its radius ({record.method}, {record.norm})"
        )
        return Check(CHECK, "pass", 0.0, float(_limit(record, 0)), what)
    such = next((f", such as {one}" for one in found.values()), "")
    how = "misclassified by few draws" if record.method == "smoothing" else "broken"
    what = f"{len(found) + more} of {proven} certified samples are {how} inside their radius{such}"
    what += f"; {where}" if more else ""
    if record.method == "smoothing":
        return _by_votes(evaluation, record, found, more, answers or {}, what)
    advice = "bounds hold for certain, so that these certificates are false, or these examples: believe neither number"
    return Check(CHECK, "fail", float(len(found) + more), 0.0, f"{what}; {advice}")


def _by_votes(
    evaluation: Evaluation,
    record: Certified,
    found: Mapping[int, Contradiction],
    more: int,
    answers: Mapping[int, int],
    what: str,
) -> Check:
    """A certificate is about the vote of all draws, and what was counted broken by few: only many draws contradict it."""
    assert record.n is not None
    assert record.alpha is not None
    asked = [(found[index], answer) for index, answer in answers.items() if index in found]
    wrong = sum(answer not in (NO_ANSWER, one.label) for one, answer in asked)
    kept = sum(answer == one.label for one, answer in asked)
    lost = {one.index for one in evaluation.samples if not one.clean == one.label == one.adversarial}
    too_low = sum(answer == one.label for one, answer in asked if one.index in lost)
    unknown, limit = len(found) - len(asked) + more, _limit(record, len(asked))
    parts = [what]
    if asked:
        parts.append(
            f"asked again with {record.n:,} draws each, the vote is wrong for {wrong} of them and right for {kept}, and "
            f"{len(asked) - wrong - kept} are too close to say"
        )
    if unknown:
        parts.append(f"{unknown} were not asked again: {WITHOUT}")
    expected = (
        f"of {len(record.samples)} certificates {record.alpha * len(record.samples):.2g} are expected to be false, and chance "
        f"explains up to {limit}"
    )
    if wrong:
        parts.append(expected)
    total = evaluation.robust.total
    if too_low:
        parts.append(
            f"{too_low} of these are not robust by the chance of few draws, by which robust accuracy may be up to "
            f"{100 * too_low / total:.1f} points too low: give smoothed more draws"
        )
    if wrong > limit:
        parts.append("the certificates are false: believe neither number")
        return Check(CHECK, "fail", float(wrong), float(limit), "; ".join(parts))
    small = too_low <= max(1, 0.01 * total)
    status = "pass" if small and not wrong and not unknown else "warn"
    return Check(CHECK, status, None if unknown else float(wrong), float(limit), "; ".join(parts))


def _limit(record: Certified, asked: int) -> int:
    """The most contradictions that chance explains: more come up with a probability of CHANCE at most.

    Of smoothing each certificate is false with probability alpha, and so is each answer, of two at most for a sample: by the
    binomial distribution, one-sided.
    """
    if record.method != "smoothing" or record.alpha is None:
        return 0
    from scipy.special import bdtrc

    trials, limit = len(record.samples) + 2 * asked, 0
    while bdtrc(limit, trials, record.alpha) > CHANCE:
        limit += 1
    return limit


def put(evaluation: Evaluation, check: Check | None) -> None:
    """The check in the place of an earlier one, or as the last."""
    others = [one for one in evaluation.checks if one.id != CHECK]
    evaluation.checks = [*others, check] if check else others


def with_check(evaluation: Evaluation) -> Evaluation:
    """An evaluation that was loaded, held to its certificates by its records, which may show more than its own check says.

    Its own check may know more in turn, of examples that no record has and of votes that were asked again: it stays where it
    accounts for as many as the records show, and a failure stays one.
    """
    record = evaluation.certified
    if record is None or not evaluation.attacks:
        return evaluation
    its = next((one for one in evaluation.checks if one.id == CHECK), None)
    found = check_of(evaluation, contradictions(evaluation))
    assert found is not None
    if its is not None:
        counted, known = _counted(found), _counted(its)
        if counted <= known and not (record.method == "bounds" and found.status == "fail"):
            return evaluation
        if counted > known:
            found = replace(found, message=f"{found.message}; the check in the file accounts for {known} of these")
        if its.status == "fail" != found.status:
            found = replace(its, message=f"{its.message}; by the records {found.message}")
    made = replace(evaluation)
    put(made, found)
    return made


def _counted(check: Check) -> int:
    """How many contradictions a check is about, as its message says."""
    number = _COUNTED.match(check.message)
    return int(number[1]) if number else 0


def broken_proof(evaluation: Evaluation) -> str:
    """A warning where attacks broke what is proven; "" where not."""
    return f"attacks broke what is proven, see the check {CHECK}" if contradicted(evaluation) else ""


def contradicted(evaluation: Evaluation) -> bool:
    """Whether attacks broke what is proven."""
    return any(one.id == CHECK and one.status == "fail" for one in evaluation.checks)
