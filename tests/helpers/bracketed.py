"""Evaluations with certificates and attacks, with given counts. Needs no torch."""

from scipy.stats import beta, norm

from robustcls.results.records import Accuracy, Certified, CertifiedSample, CurvePoint, Evaluation
from tests.helpers.judged_by_hand import make_evaluation

SIGMA, DRAWS, ALPHA = 0.25, 1000, 0.001
# Votes for the candidate class of 100 samples; the last 20 have a wrong candidate.
COUNTS = [1000] * 40 + [900] * 15 + [700] * 15 + [510] * 10 + [990] * 20
ATTACKED = {0.0: 80, 0.125: 70, 0.25: 60, 0.5: 45, 1.0: 5}
TRIED = [0.0, 2 / 255, 4 / 255, 8 / 255]


def radius_of(count: int) -> float:
    """Return the radius by the formula of the paper, with scipy; 0 if the vote abstains."""
    low = beta.ppf(ALPHA, count, DRAWS - count + 1)
    return float(SIGMA * norm.ppf(low)) if low > 0.5 else 0.0


def smoothed_bracket(name: str = "smoothed(noise/ckpt.pt, sigma=0.25)", data: str = "ab") -> Evaluation:
    """Return an evaluation: at l2 0.25, 55 of 100 samples are certified, 60 are robust under the attacks, and 10 abstain."""
    evaluation = make_evaluation(80, 60, name=name, data=data)
    evaluation.threat.norm, evaluation.threat.eps, evaluation.threat.eps_text = "l2", 0.25, "0.25"
    evaluation.curve = [CurvePoint(eps, f"{eps:g}", Accuracy.of(count, 100)) for eps, count in ATTACKED.items()]
    samples = []
    for one, count in zip(evaluation.samples, COUNTS, strict=True):
        candidate = one.label if one.index < 80 else (one.label + 1) % 10
        radius = radius_of(count)
        held = radius if candidate == one.label else 0.0
        samples.append(
            CertifiedSample(one.index, one.label, candidate if radius else None, held, candidate, count),
        )
    more = {"sigma": SIGMA, "n": DRAWS, "n0": 100, "alpha": ALPHA}
    evaluation.certified = Certified.of("smoothing", "l2", samples, [0, 0.25, 0.5, 0.75], **more)
    return evaluation


def bounded(name: str = "small/ckpt.pt", eps: int = 8) -> Evaluation:
    """Return an evaluation in linf: 70, 50 and 20 of 100 samples are certified at 2, 4 and 8/255; the attacks, only at
    `eps`/255, leave 60 robust."""
    evaluation = make_evaluation(80, 60, name=name)
    evaluation.threat.eps, evaluation.threat.eps_text = eps / 255, f"{eps}/255"
    largest = [TRIED[3]] * 20 + [TRIED[2]] * 30 + [TRIED[1]] * 20 + [0.0] * 30
    samples = [
        CertifiedSample(one.index, one.label, one.clean, radius)
        for one, radius in zip(evaluation.samples, largest, strict=True)
    ]
    evaluation.certified = Certified.of("bounds", "linf", samples, TRIED, algorithm="CROWN <b>")
    return evaluation
