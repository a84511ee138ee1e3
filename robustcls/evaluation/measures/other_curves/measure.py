"""Security curves in other norms than that of the threat model."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.core.threat import Norm, ThreatModel
from robustcls.evaluation.attacks import suite_attacks
from robustcls.evaluation.cascade import Progress, run_cascade
from robustcls.evaluation.curves import ABOUT_ZERO, Walk, reach
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.measures.other_curves.record import NormCurve
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Accuracy, CurvePoint, Evaluation

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

CURVED: tuple[Norm, ...] = ("linf", "l2", "l1")  # in l0, the minimum perturbations give the curve
POINTS = 8  # points of a curve besides the one at radius 0
SHRINK, SHRINKINGS = (
    2 / 3,
    60,
)  # factor from one radius to the next in the search for the end of a curve; largest number
PASSES = 650  # forward and backward passes per sample, in two norms together, as measured
CLOSER = 3  # how often a curve is drawn at most, if it ends earlier than the search found


def measure(
    subject: Subject,
    evaluation: Evaluation,
    *,
    n: int,
    batch_size: int,
    seed: int,
    norms: Sequence[Norm] = CURVED,
    progress: bool = False,
) -> list[NormCurve]:
    """Security curves in these norms but the threat model's, on at most n samples of an evaluation, under the suite `fast`.

    The samples are evenly spaced. The radii follow from the model: the curve goes from 0 to where accuracy is about 0%, or to
    where the ball around every image holds uniform grey. Raises InputError for a model without gradients.
    """
    model = subject.model
    if not getattr(model, "differentiable", True):
        raise InputError("curves in other norms need gradients, which this model does not give")
    total = len(subject.y)
    at = spaced(subject.y, n)
    white = replace(subject.take(at), surrogate=None)
    rule = (
        f"{len(at)} of the {total} samples, evenly spaced over the classes; attacked from the largest radius "
        "down: a sample that is robust at a radius is taken to be robust at every smaller radius"
    )
    if subject.surrogate is not None:
        rule += "; with the gradients of the evaluated model itself"

    def show(batches: Sequence[Any], label: str, total: int, standing: Callable[[], int]) -> Iterable[Any]:
        return follow(batches, label, show=progress)

    curves = []
    with torch.inference_mode(False), frozen(model):
        for norm in (one for one in norms if one != evaluation.threat.norm):
            # Of grey images the reach is 0.
            everywhere = replace(white, threat=replace(white.threat, norm=norm, eps=max(reach(white.x, norm), 1 / 255)))
            precision = evaluation.provenance.precision or "fp32"
            engine = Engine(everywhere, batch_size, precision, seed=mix(seed, *b"curve", *norm.encode()))
            attacks = suite_attacks("fast", norm)
            curves.append(NormCurve(norm, attacks, rule, len(at), _whole_curve(engine, attacks, show)))
    return curves


def seconds(pace: "Pace") -> float:
    return PASSES * pace.gradient


def _whole_curve(engine: Engine, attacks: Sequence[str], progress: Progress) -> list[CurvePoint]:
    """From 0 to the radius at which accuracy is about 0%: few steps break a sample there, so that it is quickly found."""
    n, norm = len(engine.y), engine.threat.norm
    outcome = run_cascade(engine, attacks, progress=progress)
    right = int(outcome.correct.sum())
    broken = outcome.success
    walk = Walk(engine, outcome.attacks[:1], outcome, progress)  # to find the end; all of them draw the curve
    end = engine.threat.eps
    for eps, count, _ in walk.down((end * SHRINK**step for step in range(1, SHRINKINGS)), broken):
        if right - count > ABOUT_ZERO * n or right == 0:
            break
        end = eps
    walk.attacks = outcome.attacks
    for _ in range(CLOSER):
        end = _round_up(end)
        radii = [float(f"{end * step / POINTS:.3g}") for step in range(POINTS, 0, -1)]
        points = list(walk.down(radii, broken))
        fallen = [eps for eps, count, _ in points if right - count <= ABOUT_ZERO * n]
        if right == 0 or not fallen or min(fallen) > end / 2:
            break
        end = min(fallen)  # what was found on the way shows more than the search for the end did
    points.append((0.0, right, ""))
    failed = next((f"{record.name}: {record.error}" for record in outcome.records if record.error), "")
    return [
        CurvePoint(
            eps, ThreatModel(norm, eps).eps_text, Accuracy.of(right - count if eps else right, n), error or failed
        )
        for eps, count, error in reversed(points)
    ]


def _round_up(radius: float) -> float:
    """Round to two significant digits."""
    digit = 10 ** (math.floor(math.log10(radius)) - 1)
    return math.ceil(radius / digit) * digit
