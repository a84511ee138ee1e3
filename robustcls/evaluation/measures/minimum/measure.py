"""The distance of the nearest adversarial example, in each norm."""

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.plugins import Spec
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.core.threat import NORMS, Norm, ThreatModel
from robustcls.evaluation.curves import reach
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.evaluation.subject import Subject
from robustcls.evaluation.verify import verify
from robustcls.results.records import Attack, Evaluation
from robustcls.results.statistics import quartiles

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

FAB, APGD = "fab_t(steps=30, targets=3, early_stop=False)", "min_apgd(steps=10, radii=15)"
ATTACKS: dict[Norm, list[str]] = {  # a single attack can fail on a model, as FAB does if activations are discontinuous
    "linf": [FAB, APGD],
    "l2": [FAB, "ddn(steps=100)", APGD],
    "l1": [FAB, APGD],
    "l0": ["sigma_zero(steps=100)"],
}
PASSES = 1000  # forward and backward passes per sample, in all norms together, as measured
HALVINGS = 12  # bisections between an example and its image


def measure(
    subject: Subject, evaluation: Evaluation, *, n: int, batch_size: int, seed: int, progress: bool = False
) -> list[MinimumNorm]:
    """Return the distance of the nearest verified example of at most n samples, in each norm: upper bounds of the minimum.

    An attack that raises an error is recorded with it. Raises InputError for a model without gradients, and with a mask.
    """
    model, examples = subject.model, evaluation.examples
    if not getattr(model, "differentiable", True):
        raise InputError(
            "minimum perturbations are searched with gradients, which this model does not give: give the evaluation a "
            "minimum-norm attack that needs none, such as --attack hopskipjump"
        )
    if subject.threat.mask is not None:
        raise InputError(
            "minimum perturbations are searched in the whole image, and a mask lets only a part of it change"
        )
    at = spaced(examples.y, n)
    white = replace(subject.take(at), surrogate=None)
    with torch.inference_mode(False), frozen(model):
        engine = Engine(white, batch_size, seed=mix(seed, *b"minimum"))
        return [_in_norm(engine, examples, at, norm, number, progress) for number, norm in enumerate(NORMS)]


def seconds(pace: "Pace") -> float:
    return PASSES * pace.gradient


def from_attacks(evaluation: Evaluation) -> list[MinimumNorm]:
    """Return what the minimum-norm attacks of the evaluation itself found, in its norm; empty without such attacks."""
    examples: Examples = evaluation.examples
    rule = (
        f"all {len(examples.y)} samples; the distance of the nearest verified example of this attack, or of an attack that "
        "broke the sample inside the ball"
    )
    found = []
    for attack in evaluation.attacks:
        if attack.name not in examples.nearest:
            continue
        distance = examples.nearest[attack.name].nan_to_num(nan=torch.inf)
        distance = torch.minimum(distance, examples.distance.where(examples.success, torch.inf))
        distance[~examples.correct] = 0
        record = _record(evaluation.threat.norm, _spec(attack), rule, examples.index, distance)
        record.error = attack.error
        found.append(record)
    return found


def _in_norm(engine: Engine, examples: Examples, at: Tensor, norm: Norm, number: int, progress: bool) -> MinimumNorm:
    rule = (
        f"{len(at)} of the {len(examples.y)} samples, evenly spaced over the classes; the nearest of the examples "
        f"that the attacks found and the example of the evaluation, each moved towards the image by {HALVINGS} bisection steps"
    )
    anywhere = replace(engine.threat, norm=norm, eps=reach(engine.x, norm))
    right = predict_labels(engine.logits) == engine.y
    distance = torch.zeros(len(at)).where(~right, torch.inf)
    attacked = right.nonzero().squeeze(1)
    show = partial(follow, label=f"minimum {norm}", show=progress)
    distance[attacked] = _draw_back(engine, examples.x_adv[at[attacked]], attacked, anywhere)
    failed = {}
    for turn, attack in enumerate(ATTACKS[norm]):
        try:
            for found in engine.attack(attack, attacked, anywhere, (number, turn), progress=show):
                nearer = _draw_back(engine, found.x_adv, found.indices, anywhere)
                distance[found.indices] = torch.minimum(distance[found.indices], nearer)
        except AttackError as failure:
            failed[attack] = str(failure)
    attacks = ", ".join(ATTACKS[norm])
    if len(failed) == len(ATTACKS[norm]):
        return MinimumNorm(norm, attacks, rule, len(at), [], [], 0, error=next(iter(failed.values())))
    record = _record(norm, attacks, rule, engine.subject.index, distance)
    record.error = "; ".join(f"{attack}: {error}" for attack, error in failed.items())
    return record


def _draw_back(engine: Engine, x_adv: Tensor, rows: Tensor, threat: ThreatModel) -> Tensor:
    """Return the distance of the nearest verified example that bisection finds between x_adv and its image: N; inf if none."""

    def halve(part: Tensor) -> Tensor:
        x, y = engine.x[rows[part]].to(engine.device), engine.y[rows[part]].to(engine.device)
        end = x_adv[part].to(engine.device)
        low, share, high = torch.zeros(len(part)), torch.ones(len(part)), torch.ones(len(part))
        nearest = torch.full((len(part),), torch.inf)
        for _ in range(HALVINGS + 1):  # the first step tests x_adv itself
            images = threat.between(x, end, share.to(engine.device))
            found = engine.note(verify(engine.model, images, x, y, threat, rows[part]), threat.norm)
            nearest = torch.minimum(nearest, found.distance.where(found.misclassified, torch.inf))
            low, high = low.where(found.misclassified, share), share.where(found.misclassified, high)
            share = (low + high) / 2
        return nearest

    return torch.cat([rows.new_zeros(0, dtype=torch.float32), *engine.parts.map(halve, torch.arange(len(rows)))])


def _record(norm: str, attack: str, rule: str, index: Tensor, distance: Tensor) -> MinimumNorm:
    """Return the record of one norm. index: of N samples. distance: N, inf if no example was found."""
    known = distance.tolist()
    q1, median, q3 = quartiles(known)
    return MinimumNorm(
        norm=norm,
        attack=attack,
        rule=rule,
        n=len(index),
        index=index.tolist(),
        distance=[value if value < math.inf else None for value in known],
        censored=sum(value == math.inf for value in known),
        q1=q1,
        median=median,
        q3=q3,
    )


def _spec(attack: Attack) -> str:
    return attack.name if "(" in attack.name else str(Spec(attack.name, (), tuple(attack.options.items())))
