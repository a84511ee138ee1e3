"""The bracket of robust accuracy: certified below, attacked above, of one classifier on the same samples; without PyTorch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from robustcls.results.certified import HOLDS, Certified, smoothed_radius
from robustcls.results.records import Accuracy, Evaluation

_SMOOTHED = re.compile(r"smoothed\(.*\bsigma\s*=\s*([\d.eE+-]+)\s*(?:,\s*draws\s*=\s*\d+\s*)?\)", re.DOTALL)


@dataclass(frozen=True)
class Attacked:
    """What the attacks left at one radius, and where the evaluation holds it."""

    eps: float
    eps_text: str
    path: str  # of the Accuracy
    robust: Accuracy


@dataclass(frozen=True)
class Bracket:
    """Between what robust accuracy lies at one radius. An attack at a smaller radius bounds it from above, too."""

    radius: float
    lower: Accuracy  # certified
    upper: Attacked

    @property
    def gap(self) -> float:
        """Below 0 the two contradict each other."""
        return self.upper.robust.accuracy - self.lower.accuracy


def why_apart(evaluation: Evaluation) -> str:
    """Why certificates and attacks make no bracket, as what stands after "because"; "" where they do.

    The two must be about the same classifier, the same samples and the same norm. What was smoothed is no classifier but its
    own: it is known by the name of the evaluation's model.
    """
    found = evaluation.certified
    if found is None:
        return "nothing was certified"
    if not evaluation.attacks:
        return "no attack was run on it"
    if all(attack.error for attack in evaluation.attacks):
        return "every attack failed"
    ours, its = ([(one.index, one.label) for one in samples] for samples in (evaluation.samples, found.samples))
    if sorted(ours) != sorted(its):
        return "the attacks have other samples"
    if evaluation.threat.norm != found.norm:
        return f"the attacks are in {evaluation.threat.norm} and the certificates in {found.norm}"
    if evaluation.rejection is not None:
        return "a detector stands beside the attacked model, and none beside the certified one"
    return other_classifier(evaluation)


def other_classifier(evaluation: Evaluation) -> str:
    """What differs, where the certificates are of another classifier than the evaluation's model; "" where not."""
    found, name = evaluation.certified, evaluation.model.name
    assert found is not None
    sigma = sigma_of(name)
    if found.method == "bounds" and sigma is not None:
        return f"attacked was {name}, and the bounds are of a network itself"
    if found.method == "smoothing" and (sigma is None or not math.isclose(sigma, found.sigma or 0, rel_tol=1e-6)):
        return f"attacked was {name}, and certified is the vote under noise of sigma {found.sigma:g}"
    return ""


def sigma_of(name: str) -> float | None:
    """The noise of a model whose outermost wrapper is `smoothed`, from its name; None for every other."""
    match = _SMOOTHED.fullmatch(name)
    try:
        return float(match[1]) if match else None
    except ValueError:
        return None


def largest_radius(found: Certified) -> float:
    """Beyond which nothing can be certified: of smoothing that of n votes in n draws, of bounds the largest that was tried."""
    if found.method == "smoothing":
        assert found.sigma is not None  # as `Certified.check` demands
        assert found.n is not None
        assert found.alpha is not None
        return smoothed_radius(found.n, found.n, found.alpha, found.sigma)
    return max((point.radius for point in found.curve), default=0.0)


def covers(found: Certified, radius: float) -> bool:
    """Whether a certificate at this radius was asked for: of smoothing at every one, if only to none."""
    return found.method == "smoothing" or radius <= largest_radius(found) * (1 + HOLDS)


def tried_at(found: Certified, radius: float) -> float | None:
    """The radius whose proofs are counted at this one, of bounds the next that was tried; None where nothing is known so far
    out: beyond the largest that was tried, or that so many draws can prove."""
    if radius > largest_radius(found) * (1 + HOLDS):
        return None
    if found.method == "smoothing":
        return radius
    return min(point.radius for point in found.curve if point.radius >= radius * (1 - HOLDS))


def stated_radius(evaluation: Evaluation) -> float:
    """The radius at which one number stands for the certificates: the threat's; where that was not asked for the largest below.

    Without attacks, the first above 0.
    """
    assert evaluation.certified is not None
    found, eps = evaluation.certified, evaluation.threat.eps
    radii = sorted(point.radius for point in found.curve if point.radius > 0)
    if eps == 0:
        return radii[0] if radii else 0.0
    return eps if covers(found, eps) else max((radius for radius in radii if radius < eps), default=0.0)


def attacked_of(evaluation: Evaluation) -> list[Attacked]:
    """What attacks left, by radius from 0, the clean images, on: of all samples, in the norm of the threat."""
    threat, total = evaluation.threat, len(evaluation.samples)
    found = {0.0: Attacked(0.0, "0", "clean", evaluation.clean)}
    for place, point in enumerate(evaluation.curve or []):
        if point.robust.total == total:
            found[point.eps] = Attacked(point.eps, point.eps_text, f"curve.{place}.robust", point.robust)
    if threat.eps > 0:
        found[threat.eps] = Attacked(threat.eps, threat.eps_text, "robust", evaluation.robust)
    return [found[eps] for eps in sorted(found)]


def upper_at(points: Sequence[Attacked], radius: float) -> Attacked:
    """The attack at the largest radius that lies within this one."""
    return [point for point in points if point.eps <= radius * (1 + HOLDS)][-1]


def bracket(evaluation: Evaluation, radius: float | None = None) -> Bracket | None:
    """That at a radius, the threat's unless given; None where nothing was certified there or the two are not of one kind."""
    radius = evaluation.threat.eps if radius is None else radius
    found = evaluation.certified
    if found is None or why_apart(evaluation) or not covers(found, radius):
        return None
    return Bracket(radius, found.at(radius), upper_at(attacked_of(evaluation), radius))
