"""Robust accuracy against the radius."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustcls.core.records import Accuracy, CurvePoint
from robustcls.core.seeds import mix
from robustcls.core.threat import Norm, ThreatModel, parse_eps
from robustcls.evaluation.cascade import Outcome, Progress, takes
from robustcls.evaluation.engine import AttackError, Engine


def parse_grid(text: str) -> list[float]:
    """Radii from `0,2/255,4/255`, from the smallest, without repetitions. Raises InputError."""
    return sorted({parse_eps(part) for part in text.split(",")})


def security_curve(
    engine: Engine,
    outcome: Outcome,
    threat: ThreatModel,
    attacks: Sequence[str],
    grid: Sequence[float],
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Robust accuracy under the attacks at each radius of the grid, and at the threat's own, which the outcome knows.

    Balls are nested: what breaks at a radius is broken at every larger one, and what stood at the threat's radius stands
    at every smaller one. So the curve cannot rise, and below the threat's radius only broken samples are attacked, above
    it only the rest.
    """
    standing = outcome.standing(engine.y)
    broken = (outcome.clean == engine.y) & ~standing
    walk = _Walk(engine, threat.norm, attacks, outcome, progress)
    below = walk.along([eps for eps in grid if eps < threat.eps], broken)
    above = walk.along([eps for eps in grid if eps > threat.eps], standing)
    counts = [(eps, count + int(standing.sum()), error) for eps, count, error in below]
    counts += [(threat.eps, int(standing.sum()), ""), *above]
    n = len(engine.y)
    return [
        CurvePoint(eps, ThreatModel(threat.norm, eps).eps_text, Accuracy.of(count, n), error)
        for eps, count, error in counts
    ]


class _Walk:
    """The attacks at ever larger radii; those that can begin from the strongest attempt at the radius before."""

    def __init__(
        self, engine: Engine, norm: Norm, attacks: Sequence[str], outcome: Outcome, progress: Progress | None
    ) -> None:
        self.engine, self.norm, self.attacks, self.progress = engine, norm, attacks, progress
        self.x_adv = outcome.x_adv
        # The nearest verified example of each sample, which breaks it at every radius that holds it.
        self.known = outcome.distance.where(outcome.broken_by >= 0, torch.inf)
        for distances in outcome.nearest.values():
            self.known = torch.minimum(self.known, distances.nan_to_num(nan=torch.inf))

    def along(self, radii: Sequence[float], met: Tensor) -> list[tuple[float, int, str]]:
        """Each radius with how many of the samples met (N, bool) stand at it, and the error of an attack that broke off."""
        stands, best, points = met.clone(), self.x_adv, []
        for eps in sorted(radii):
            error = ""
            stands &= ~(self.known <= eps)
            if eps > 0:
                ball = ThreatModel(self.norm, eps)
                best = torch.cat(
                    [ball.project(*rows) for rows in zip(best.split(512), self.engine.x.split(512), strict=True)]
                )
                for number, spec in enumerate(self.attacks):
                    try:
                        self._strike(spec, number, ball, stands, best)
                    except AttackError as failure:
                        error = error or f"{spec}: {failure}"
            points.append((eps, int(stands.sum()), error))
        return points

    def _strike(self, spec: str, number: int, ball: ThreatModel, stands: Tensor, best: Tensor) -> None:
        attack, _ = self.engine.load(spec)
        met = stands.nonzero().squeeze(1)
        start = best.clone() if takes(attack, "start") else None

        def show(batches):
            label = f"{spec.partition('(')[0]} at {ball.eps_text}"
            return self.progress(batches, label, len(met), lambda: int(stands.sum())) if self.progress else batches

        stream = (mix(round(ball.eps * 1e9)), number)
        for found in self.engine.attack(attack, met, ball, stream, start=start, progress=show):
            stands[found.indices[found.fooled]] = False
            inside = found.margin > -torch.inf
            best[found.indices[inside]] = found.x_adv[inside]
