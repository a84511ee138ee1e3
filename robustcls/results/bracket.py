"""The bracket of robust accuracy: the certified lower bound and the upper bound by attacks. Needs no PyTorch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from robustcls.results.certified import HOLDS, Certified, smoothed_radius
from robustcls.results.records import Accuracy, Evaluation

_SMOOTHED = re.compile(r"smoothed\(.*\bsigma\s*=\s*([\d.eE+-]+)\s*(?:,\s*draws\s*=\s*\d+\s*)?\)", re.DOTALL)


@dataclass(frozen=True)
class Attacked:
    """Robust accuracy under attack at one radius, and its path in the evaluation."""

    eps: float
    eps_text: str
    path: str  # path of the Accuracy
    robust: Accuracy


@dataclass(frozen=True)
class Bracket:
    """Lower and upper bound on robust accuracy at one radius. An attack at a smaller radius is also an upper bound."""

    radius: float
    lower: Accuracy  # certified
    upper: Attacked
    disputed: int = 0  # certified samples among the broken ones

    @property
    def gap(self) -> float:
        """The difference of the bounds. If it is negative, they contradict each other."""
        return self.upper.robust.accuracy - self.lower.accuracy


def why_apart(evaluation: Evaluation) -> str:
    """Return why certificates and attacks do not form a bracket, as text after "because"; "" if they do.

    Both must be about the same classifier, the same samples and the same norm. A smoothed classifier is a different classifier
    than its network; it is recognised by the model name in the evaluation.
    """
    certified = evaluation.certified
    if certified is None:
        return "nothing was certified"
    if not evaluation.attacks:
        return "no attack was run on it"
    if all(attack.error for attack in evaluation.attacks):
        return "every attack failed"
    attacked, proven = (
        sorted((one.index, one.label) for one in samples) for samples in (evaluation.samples, certified.samples)
    )
    if attacked != proven:
        return "the attacks have other samples"
    if evaluation.threat.norm != certified.norm:
        return f"the attacks are in {evaluation.threat.norm} and the certificates in {certified.norm}"
    if evaluation.rejection is not None:
        return "a detector stands beside the attacked model, and none beside the certified one"
    if certified.precision != "fp32":
        return f"the certificates are of the copy in {certified.precision}, and the attacks are on the model in fp32"
    return other_classifier(evaluation)


def other_classifier(evaluation: Evaluation) -> str:
    """Return the difference if the certificates are about another classifier than the evaluation's model, else ""."""
    certified, name = evaluation.certified, evaluation.model.name
    assert certified is not None
    sigma = sigma_of(name)
    if certified.method == "bounds" and sigma is not None:
        return f"the attacks are on {name}, and the bounds are on a network itself"
    if certified.method == "smoothing" and (
        sigma is None or not math.isclose(sigma, certified.sigma or 0, rel_tol=1e-6)
    ):
        return (
            f"the attacks are on {name}, and the certificates are for the vote under noise of sigma {certified.sigma}"
        )
    return ""


def sigma_of(name: str) -> float | None:
    """Return sigma from the name of a model whose outermost wrapper is `smoothed`; None for all other models."""
    match = _SMOOTHED.fullmatch(name)
    try:
        return float(match[1]) if match else None
    except ValueError:
        return None


def largest_radius(certified: Certified) -> float:
    """Return the largest radius that can be certified: for n votes of n draws (smoothing), or the largest tried (bounds)."""
    if certified.method == "smoothing":
        assert certified.sigma is not None  # guaranteed by `Certified.check`
        assert certified.n is not None
        assert certified.alpha is not None
        return smoothed_radius(certified.n, certified.n, certified.alpha, certified.sigma)
    return max((point.radius for point in certified.curve), default=0.0)


def covers(certified: Certified, radius: float) -> bool:
    """Whether certified accuracy is defined at this radius: at every radius for smoothing, up to the largest for bounds."""
    return certified.method == "smoothing" or radius <= largest_radius(certified) * (1 + HOLDS)


def tried_at(certified: Certified, radius: float) -> float | None:
    """Return the radius whose certificates count at this radius: the same for smoothing, the next larger tried one for bounds.

    None beyond the largest radius that was tried, or that the number of draws can certify.
    """
    if radius > largest_radius(certified) * (1 + HOLDS):
        return None
    if certified.method == "smoothing":
        return radius
    return min(point.radius for point in certified.curve if point.radius >= radius * (1 - HOLDS))


def stated_radius(evaluation: Evaluation) -> float:
    """Return the radius for stating certified accuracy as one number.

    It is the radius of the threat model, or the largest certified radius below it; without attacks, the first one above 0.
    """
    assert evaluation.certified is not None
    certified, eps = evaluation.certified, evaluation.threat.eps
    radii = sorted(point.radius for point in certified.curve if point.radius > 0)
    if eps == 0:
        return radii[0] if radii else 0.0
    return eps if covers(certified, eps) else max((radius for radius in radii if radius < eps), default=0.0)


def attacked_of(evaluation: Evaluation) -> list[Attacked]:
    """Return robust accuracy on all samples by ascending radius, in the norm of the threat model; at 0, clean accuracy."""
    threat, total = evaluation.threat, len(evaluation.samples)
    by_radius = {0.0: Attacked(0.0, "0", "clean", evaluation.clean)}
    for place, point in enumerate(evaluation.curve or []):
        if point.robust.total == total:
            by_radius[point.eps] = Attacked(point.eps, point.eps_text, f"curve.{place}.robust", point.robust)
    if threat.eps > 0:
        by_radius[threat.eps] = Attacked(threat.eps, threat.eps_text, "robust", evaluation.robust)
    return [by_radius[eps] for eps in sorted(by_radius)]


def upper_at(points: Sequence[Attacked], radius: float) -> Attacked:
    """Return the attack result at the largest radius that does not exceed this one."""
    return [point for point in points if point.eps <= radius * (1 + HOLDS)][-1]


def bracket(evaluation: Evaluation, radius: float | None = None) -> Bracket | None:
    """Return the bracket at a radius (default: that of the threat model); None if there is none, see `why_apart`."""
    radius = evaluation.threat.eps if radius is None else radius
    certified = evaluation.certified
    if certified is None or why_apart(evaluation) or not covers(certified, radius):
        return None
    upper = upper_at(attacked_of(evaluation), radius)
    proven = {one.index for one in certified.samples if one.holds(radius)}
    broken = {one.index for one in evaluation.samples if not one.clean == one.label == one.adversarial}
    return Bracket(radius, certified.at(radius), upper, len(proven & broken) if upper.path == "robust" else 0)
