"""Check whether attacks contradict certificates: adversarial examples inside a certified radius. Needs no PyTorch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from robustcls.core.threat import BALL
from robustcls.results.certified import HOLDS
from robustcls.results.records import Certified, Check, Evaluation, Sample

CHECK = "certificates"
CHANCE = (
    0.001  # probability that the check fails by chance, because smoothing certificates hold only with a probability
)
NO_ANSWER = -1  # result of a vote that is too close
WITHOUT = (
    "their examples are not available, so the vote cannot be repeated with more draws: certify first, then attack with the "
    "same `out`, or give the examples"
)


@dataclass(frozen=True)
class Contradiction:
    """A sample with an adversarial example inside its certified radius."""

    index: int
    label: int
    radius: float  # certified radius
    distance: float  # of the nearest example, in the norm of the certificate; 0 if the clean image is misclassified

    def __str__(self) -> str:
        how = f"broken at {self.distance:.6g}" if self.distance else "misclassified unchanged"
        return f"sample {self.index}, {how} and certified to {self.radius:.6g}"


def reach(radius: float) -> float:
    """Return the distance up to which an example counts as inside a certificate.

    It is the same as for the ball of an evaluation at this radius, which the certified sample must withstand.
    """
    return radius * (1 + HOLDS) + BALL


def contradictions(evaluation: Evaluation, more: Mapping[int, float] | None = None) -> dict[int, Contradiction]:
    """Return the samples, by index, whose nearest known adversarial example lies inside their certificate.

    Known examples are the one that broke the sample, those of minimum-norm attacks in the norm of the certificates, and the
    clean image if it is misclassified. more: distances of other verified examples, by index.
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
    for minimum in evaluation.minimum or []:
        if minimum.norm == certified.norm:
            pairs = zip(minimum.index, minimum.distance, strict=True) if minimum.distance else ()
            yield from ((index, far) for index, far in pairs if far is not None and index in right)


def _of_sample(one: Sample) -> Iterator[float]:
    if one.clean != one.label:
        yield 0.0
    if one.broken_by is not None and one.distance is not None:
        yield one.distance
    yield from (far for far in (one.nearest or {}).values() if far is not None)


def more_by_counts(evaluation: Evaluation, found: Mapping[int, Contradiction]) -> tuple[int, str]:
    """Return the minimum number of further contradictions by the counts of the curves, and a radius with them, in words.

    A curve has no individual samples. If fewer samples are robust at a radius than are certified, the difference consists of
    certified samples; all known contradictions may be among them.
    """
    certified = evaluation.certified
    assert certified is not None
    points = list(evaluation.curve or []) if evaluation.threat.norm == certified.norm else []
    for curve in evaluation.other_curves or []:
        points += curve.points if curve.norm == certified.norm and curve.n == len(certified.samples) else []
    most, where = 0, ""
    for point in points:
        proven, left = certified.at(point.eps).correct, point.robust.correct
        known = sum(reach(one.radius) >= point.eps for one in found.values())
        if proven - left - known > most:
            most = proven - left - known
            where = f"at {point.eps_text} the attacks leave {left} samples, and {proven} are certified"
    return most, where


def check_of(
    evaluation: Evaluation, found: Mapping[int, Contradiction], answers: Mapping[int, int] | None = None
) -> Check | None:
    """Return the check on contradictions; None without certificates or without attacks.

    answers: for smoothing, by index, the class that a vote of many draws gives for the example, NO_ANSWER if it abstains.
    Indices whose vote was not repeated are missing.
    """
    record = evaluation.certified
    if record is None or not evaluation.attacks:
        return None
    more, where = more_by_counts(evaluation, found)
    proven = sum(one.holds(0) and one.radius > 0 for one in record.samples)
    if not found and not more:
        summary = (
            f"no attack broke one of the {proven} certified samples inside its radius ({record.method}, {record.norm})"
        )
        return Check(CHECK, "pass", 0.0, float(_limit(record, 0)), summary, 0)
    example = next((f", such as {one}" for one in found.values()), "")
    how = "misclassified by few draws" if record.method == "smoothing" else "broken"
    summary = f"{len(found) + more} of {proven} certified samples are {how} inside their radius{example}"
    summary += f"; {where}" if more else ""
    if record.method == "smoothing":
        return _by_votes(evaluation, record, found, more, answers or {}, summary)
    advice = "bounds hold for certain, so either these certificates or these examples are wrong: trust neither number"
    return Check(CHECK, "fail", float(len(found) + more), 0.0, f"{summary}; {advice}", len(found) + more)


def _by_votes(
    evaluation: Evaluation,
    record: Certified,
    found: Mapping[int, Contradiction],
    more: int,
    answers: Mapping[int, int],
    summary: str,
) -> Check:
    """Return the check for smoothing.

    A certificate is about the vote of many draws, while attacks judge their examples by few draws. Only a repeated vote of many
    draws can contradict a certificate.
    """
    assert record.n is not None
    assert record.alpha is not None
    asked = [(found[index], answer) for index, answer in answers.items() if index in found]
    wrong = sum(answer not in (NO_ANSWER, one.label) for one, answer in asked)
    kept = sum(answer == one.label for one, answer in asked)
    lost = {one.index for one in evaluation.samples if not one.clean == one.label == one.adversarial}
    too_low = sum(answer == one.label for one, answer in asked if one.index in lost)
    unknown, limit = len(found) - len(asked) + more, _limit(record, len(asked))
    parts = [summary]
    if asked:
        parts.append(
            f"repeated with {record.n:,} draws each, the vote is wrong for {wrong} of them and right for {kept}, and too close "
            f"to call for {len(asked) - wrong - kept}"
        )
    if unknown:
        parts.append(f"the vote was not repeated for {unknown}: {WITHOUT}")
    expected = (
        f"of {len(record.samples)} certificates {record.alpha * len(record.samples):.2g} are expected to be false, and chance "
        f"explains up to {limit}"
    )
    if wrong:
        parts.append(expected)
    total = evaluation.robust.total
    if too_low:
        parts.append(
            f"{too_low} of these count as not robust only by chance, because attacks use few draws, so robust accuracy may be "
            f"up to {100 * too_low / total:.1f} points too low: give smoothed more draws"
        )
    if wrong > limit:
        parts.append("the certificates are false: trust neither number")
        return Check(CHECK, "fail", float(wrong), float(limit), "; ".join(parts), len(found) + more)
    small = too_low <= max(1, 0.01 * total)
    status = "pass" if small and not wrong and not unknown else "warn"
    measured = None if unknown else float(wrong)
    return Check(CHECK, status, measured, float(limit), "; ".join(parts), len(found) + more)


def _limit(record: Certified, asked: int) -> int:
    """Return the largest number of contradictions that chance explains; more have a probability of CHANCE at most.

    With smoothing, each certificate is false with probability alpha, and so is each repeated vote, of which a sample has two at
    most. The limit is a one-sided quantile of the binomial distribution.
    """
    if record.method != "smoothing" or record.alpha is None:
        return 0
    from scipy.special import bdtrc

    trials, limit = len(record.samples) + 2 * asked, 0
    while bdtrc(limit, trials, record.alpha) > CHANCE:
        limit += 1
    return limit


def put(evaluation: Evaluation, check: Check | None) -> None:
    """Replace the earlier check of an evaluation, or append the check."""
    others = [one for one in evaluation.checks if one.id != CHECK]
    evaluation.checks = [*others, check] if check else others


def with_check(evaluation: Evaluation) -> Evaluation:
    """Return a loaded evaluation whose check of the certificates also covers contradictions that its records show.

    The check in the file may know more than the records, such as further examples and repeated votes. It is kept if it covers
    at least as many contradictions as the records, and a failed check stays failed.
    """
    record = evaluation.certified
    if record is None or not evaluation.attacks:
        return evaluation
    earlier = next((one for one in evaluation.checks if one.id == CHECK), None)
    check = check_of(evaluation, contradictions(evaluation))
    assert check is not None
    if earlier is not None:
        counted, known = check.found or 0, earlier.found or 0
        if counted <= known and not (record.method == "bounds" and check.status == "fail"):
            return evaluation
        if counted > known:
            check = replace(check, message=f"{check.message}; the check in the file accounts for {known} of these")
        if earlier.status == "fail" != check.status:
            check = replace(earlier, message=f"{earlier.message}; by the records {check.message}")
    updated = replace(evaluation)
    put(updated, check)
    return updated


def broken_proof(evaluation: Evaluation) -> str:
    """Return a warning if attacks contradict the certificates, else ""."""
    return f"attacks contradict the certificates, see the check {CHECK}" if contradicted(evaluation) else ""


def contradicted(evaluation: Evaluation) -> bool:
    """Whether attacks contradict the certificates."""
    return any(one.id == CHECK and one.status == "fail" for one in evaluation.checks)
