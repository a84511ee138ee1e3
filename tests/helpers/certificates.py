"""Evaluations with given certificates."""

from robustcls.results.certified import Certified, CertifiedSample, smoothed_radius
from robustcls.results.records import Evaluation, Threat
from tests.helpers.judged_by_hand import make_evaluation

N, ALPHA, SIGMA = 1000, 0.001, 0.25


def smoothing(counts, labels, n=N, sigma=SIGMA, **more) -> Certified:
    """Return certificates by smoothing. counts: votes for the class of each sample."""
    samples = []
    for index, (count, label) in enumerate(zip(counts, labels, strict=True)):
        radius = smoothed_radius(count, n, ALPHA, sigma)
        samples.append(CertifiedSample(index, label, label if radius else None, radius, label, count))
    return Certified.of("smoothing", "l2", samples, [0, 0.25], sigma=sigma, n=n, n0=100, alpha=ALPHA, **more)


def bounds(radii, labels, **more) -> Certified:
    """Return certificates by bounds, tried at 0.01 and 0.02. radii: certified radius of each sample."""
    samples = [CertifiedSample(i, label, label, far) for i, (far, label) in enumerate(zip(radii, labels, strict=True))]
    return Certified.of("bounds", "linf", samples, [0, 0.01, 0.02], **more)


def labels_of(evaluation: Evaluation) -> list[int]:
    return [sample.label for sample in evaluation.samples]


def smoothed_evaluation(attacked: bool = True) -> Evaluation:
    """Return an evaluation: 80 of 100 samples are certified at l2 0.25, 60 of them at the largest possible radius, and 90 are
    robust at 0.25."""
    one = make_evaluation(100, 90 if attacked else 100, name="smoothed(run/ckpt.pt, sigma=0.25)")
    one.threat = Threat("l2", 0.25, "0.25") if attacked else Threat("l2", 0.0, "0")
    if not attacked:
        one.attacks, one.robust.kind = [], "clean accuracy: no attack was run"
    one.certified = smoothing([N] * 60 + [950] * 20 + [600] * 20, labels_of(one))
    one.check()
    return one


def bounded_evaluation(eps: float = 0.03) -> Evaluation:
    """Return an evaluation: 30 of 100 samples are certified at linf 0.02, 50 at 0.01; 90 are robust under the attack at eps."""
    one = make_evaluation(100, 90)
    one.threat = Threat("linf", eps, f"{eps:g}")
    for sample in one.samples:
        sample.distance = sample.distance and eps
    one.certified = bounds([0.02] * 30 + [0.01] * 20 + [0.0] * 50, labels_of(one))
    one.check()
    return one
