"""How far the nearest adversarial example is, in each norm."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.plugins import Spec
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.core.threat import NORMS, Norm, ThreatModel
from robustcls.evaluation.curve import reach
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.judge import Judged
from robustcls.evaluation.verify import verify
from robustcls.results.records import Attack, MinimumNorm
from robustcls.results.statistics import quartiles

ATTACK = "fab_t(steps=30, targets=3, early_stop=False)"
PASSES = 320  # forward and backward, of a sample in the three norms together, as measured
HALVINGS = 12  # of the way from an example back to the image


def measure_minimum(
    model: nn.Module, judged: Judged, *, n: int, batch_size: int, seed: int, progress: bool = False
) -> list[MinimumNorm]:
    """The distance of the nearest verified example of at most n samples, evenly spaced, in each norm: upper bounds.

    An attack that fails on an error of its own is recorded with it. Raises InputError for a model without gradients.
    """
    if not getattr(model, "differentiable", True):
        raise InputError(
            "minimum perturbations are looked for with gradients, which this model does not give: give the evaluation a "
            "minimum-norm attack that needs none, such as --attack hopskipjump"
        )
    at = spaced(judged.y, n)
    with torch.inference_mode(False), frozen(model):
        engine = Engine(
            model,
            judged.x[at],
            judged.y[at],
            batch_size=batch_size,
            seed=mix(seed, *b"minimum"),
            index=judged.index[at],
        )
        return [_in_norm(engine, judged, at, norm, number, progress) for number, norm in enumerate(NORMS)]


def minimum_of_cascade(judged: Judged) -> list[MinimumNorm]:
    """What the minimum-norm attacks of the evaluation itself found, in its norm; none where it ran no such attack."""
    outcome, norm = judged.outcome, judged.evaluation.threat.norm
    wrong, broken = outcome.clean != judged.y, outcome.broken_by >= 0
    rule = (
        f"all {len(judged.y)} samples; the distance of the nearest verified example of this attack, or of an attack that "
        "broke the sample inside the ball"
    )
    found = []
    for attack in outcome.attacks:
        if attack.name not in outcome.nearest:
            continue
        distance = outcome.nearest[attack.name].nan_to_num(nan=torch.inf)
        distance = torch.minimum(distance, outcome.distance.where(broken, torch.inf))
        distance[wrong] = 0
        record = _record(norm, _spec(attack), rule, judged, torch.arange(len(judged.y)), distance)
        record.error = attack.error
        found.append(record)
    return found


def _in_norm(engine: Engine, judged: Judged, at: Tensor, norm: Norm, number: int, progress: bool) -> MinimumNorm:
    rule = (
        f"{len(at)} of the {len(judged.y)} samples, evenly spaced over the classes; the nearer of what the attack found and "
        f"of the evaluation's own example, each drawn back towards the image by {HALVINGS} halvings"
    )
    anywhere = ThreatModel(norm, reach(engine.x, norm))
    attack, _ = engine.load(ATTACK)
    right = predict_labels(engine.logits) == engine.y
    distance = torch.zeros(len(at)).where(~right, torch.inf)
    met = right.nonzero().squeeze(1)
    show = partial(follow, label=f"minimum {norm}", show=progress)
    try:
        for found in engine.attack(attack, met, anywhere, (number,), progress=show):
            rows = found.indices
            for x_adv in (found.x_adv, judged.outcome.x_adv[at[rows]]):
                distance[rows] = torch.minimum(distance[rows], _draw_back(engine, x_adv, rows, anywhere))
    except AttackError as failure:
        return MinimumNorm(norm, ATTACK, rule, len(at), [], [], 0, error=str(failure))
    return _record(norm, ATTACK, rule, judged, at, distance)


def _draw_back(engine: Engine, x_adv: Tensor, rows: Tensor, threat: ThreatModel) -> Tensor:
    """Distance of the nearest verified example that bisection finds between x_adv and its image; inf for none: N."""

    def halve(part: Tensor) -> Tensor:
        x, y = engine.x[rows[part]].to(engine.device), engine.y[rows[part]].to(engine.device)
        end = x_adv[part].to(engine.device)
        low, share, high = torch.zeros(len(part)), torch.ones(len(part)), torch.ones(len(part))
        nearest = torch.full((len(part),), torch.inf)
        for _ in range(HALVINGS + 1):  # the first looks at the end itself
            images = x.lerp(end, share.view(-1, 1, 1, 1).to(engine.device)).clamp(0, 1)
            found = verify(engine.judge, images, x, y, threat, rows[part])
            nearest = torch.minimum(nearest, found.distance.where(found.wrong, torch.inf))
            low, high = low.where(found.wrong, share), share.where(found.wrong, high)
            share = (low + high) / 2
        return nearest

    return torch.cat(list(engine.parts.map(halve, torch.arange(len(rows)))))


def _record(norm: str, attack: str, rule: str, judged: Judged, at: Tensor, distance: Tensor) -> MinimumNorm:
    """at: positions in the evaluation. distance: N of them, inf where no example was found."""
    known = distance.tolist()
    q1, median, q3 = quartiles(known)
    return MinimumNorm(
        norm=norm,
        attack=attack,
        rule=rule,
        n=len(at),
        index=[judged.evaluation.samples[position].index for position in at.tolist()],
        distance=[value if value < math.inf else None for value in known],
        censored=sum(value == math.inf for value in known),
        q1=q1,
        median=median,
        q3=q3,
    )


def _spec(attack: Attack) -> str:
    return attack.name if "(" in attack.name else str(Spec(attack.name, (), tuple(attack.options.items())))
