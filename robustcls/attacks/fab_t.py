"""Fast Adaptive Boundary: step by step to the boundary that the model's linearisation promises, close to the image."""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.attacks._survivors import CLEARLY, is_fooled, keep, likeliest_others, per_sample
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import rival_scale
from robustcls.core.threat import ThreatModel

ALPHA_MAX, ETA, BETA = 0.1, 1.05, 0.9  # pull to the image, overshoot, retreat from a success: as published


def fab_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    random_start: bool = False,
    early_stop: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """The nearest example across the boundary to each likely wrong class (Croce and Hein 2019, arXiv:1907.02044).

    Targeted as in arXiv:2003.01690; random_start: not only the restarts begin at random. early_stop: any example
    inside the ball will do, and one outside is projected on it; otherwise the nearest is returned, however far it is.
    """
    if steps < 1 or targets < 1 or restarts < 1:
        raise InputError(f"fab_t(steps={steps}, targets={targets}, restarts={restarts}): give 1 or more of each")
    with torch.no_grad():
        logits = model(x)
    likeliest = likeliest_others(logits, y)
    nearest, distance = x.clone(), x.new_full((len(x),), torch.inf)
    distance[is_fooled(logits, y)] = 0
    enough = threat.eps if early_stop else 0.0
    for rank in range(min(targets, likeliest.shape[1])):
        for restart in range(restarts):
            left = (distance > enough).nonzero().squeeze(1)
            if len(left) == 0:
                break
            clean = x[left]
            moved = random_start or restart > 0
            start = clean.lerp(threat.random_start(clean, take(generator, left)), 0.5) if moved else clean
            found, size = _approach(model, clean, y[left], likeliest[left, rank], threat, start, steps, enough)
            nearer = size < distance[left]
            nearest[left[nearer]], distance[left[nearer]] = found[nearer], size[nearer]
    outside = distance > enough
    if early_stop and outside.any():
        nearest[outside] = threat.project(nearest[outside], x[outside])
    return nearest


def _approach(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    target: Tensor,
    threat: ThreatModel,
    start: Tensor,
    steps: int,
    enough: float,
) -> tuple[Tensor, Tensor]:
    """One run: the nearest examples and their distances, inf where none was found. Ends for a sample at `enough`.

    One pass through the model serves a point twice: it tells whether the point is an example, and it linearises the
    model for the next step, also for one that retreats from a success.
    """
    nearest, distance = x.clone(), x.new_full((len(x),), torch.inf)
    s = {"index": torch.arange(len(x), device=x.device), "x": x, "y": y, "target": target, "x_adv": start}
    for _ in range(steps + 1):
        logits, gap, grad = logits_and_gradient(model, s["x_adv"], _gap, s["y"], s["target"])
        gap = gap.where(gap.isfinite(), 0)  # no boundary to step to
        s |= {"grad": grad, "offset": torch.linalg.vecdot(grad.flatten(1), s["x_adv"].flatten(1)) - gap}
        fooled = is_fooled(logits, s["y"])
        if fooled.any():
            size = threat.distance(s["x_adv"], s["x"]).where(fooled, torch.inf)
            nearer = size < distance[s["index"]]
            rows = s["index"][nearer]
            nearest[rows], distance[rows] = s["x_adv"][nearer], size[nearer]
            s["x_adv"] = torch.where(per_sample(fooled), s["x"].lerp(s["x_adv"], BETA), s["x_adv"])
            if (size <= enough).any():
                s = keep(s, size > enough)
                if len(s["y"]) == 0:
                    break
        s["x_adv"] = _step(threat, s["x_adv"], s["x"], s["grad"], s["offset"])
    return nearest, distance


def _step(threat: ThreatModel, x_adv: Tensor, x: Tensor, grad: Tensor, offset: Tensor) -> Tensor:
    """Past the hyperplane grad . z = offset, from x_adv and, the more the further x_adv has strayed, from the image."""
    w, zero = grad.flatten(1), grad.new_zeros(())
    from_here, from_image = (to_hyperplane(threat.norm, point.flatten(1), w, offset).view_as(x) for point in (x_adv, x))
    here, image = (threat.distance(delta, zero).clamp_min(1e-8) for delta in (from_here, from_image))
    pull = (here / (here + image)).clamp_max(ALPHA_MAX)
    ahead, anchor = torch.add(x_adv, from_here, alpha=ETA), torch.add(x, from_image, alpha=ETA)
    return ahead.lerp_(anchor, per_sample(pull)).clamp_(0, 1)


def _gap(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit, less what `is_fooled` asks for: the boundary is that of a clear error, not of a tie."""
    logits = logits.float()
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return gap - CLEARLY * rival_scale(logits.detach(), y)
