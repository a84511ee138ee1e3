"""Robust accuracy against the radius."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.seeds import mix
from robustcls.core.threat import Norm, ThreatModel, parse_eps
from robustcls.core.traits import takes, traits_of
from robustcls.evaluation.cascade import Outcome, Progress
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Accuracy, CurvePoint

ABOUT_ZERO = 0.01  # robust accuracy at which a curve has shown what it can
SHARES = (0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4, 6, 8)  # of eps, the radii of `auto`; from then on it doubles
DOUBLINGS = 16


class AutoGrid(tuple[float, ...]):
    """Radii of which those above the threat's own are measured until robust accuracy is about 0%, not all of them."""


def choose_grid(text: str | None, threat: ThreatModel, attacks: Sequence[str]) -> Sequence[float]:
    """The radii that `--eps-grid` asks for, none without it: a list such as `0,2/255`, or `auto`.

    With auto, attacks that leave every small ball, and so have no curve, get none. Raises InputError.
    """
    if not text:
        return []
    if text.strip() != "auto":
        return [ThreatModel(threat.norm, eps).eps for eps in parse_grid(text)]
    unrestricted = any(traits_of(plugins.load("attack", spec)).unrestricted for spec in attacks)
    return [] if unrestricted else auto_grid(threat)


def auto_grid(threat: ThreatModel) -> AutoGrid:
    """Radii around that of the threat, from 0 on."""
    shares = [*SHARES, *(SHARES[-1] * 2**doubling for doubling in range(1, DOUBLINGS + 1))]
    return AutoGrid(sorted({threat.at(share * threat.eps).eps for share in shares}))


def parse_grid(text: str) -> list[float]:
    """Radii from `0,2/255,4/255`, from the smallest, without repetitions. Raises InputError."""
    return sorted({parse_eps(part) for part in text.split(",")})


def reach(x: Tensor, norm: Norm) -> float:
    """The radius at which the ball around every image holds uniform grey, so that no model can be robust on two classes.

    x: N,C,H,W in [0, 1].
    """
    return max(ThreatModel(norm, 0).distance(part, torch.full_like(part, 0.5)).max().item() for part in x.split(512))


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
    it only the rest. An AutoGrid ends where robust accuracy is about 0%, at the latest where every ball holds uniform grey.
    Radii that are left when the engine's time is up have no point.
    """
    n = len(engine.y)
    enough, last = (ABOUT_ZERO * n, reach(engine.x, threat.norm)) if isinstance(grid, AutoGrid) else (-1.0, math.inf)
    standing = outcome.standing(engine.y)
    broken = (outcome.clean == engine.y) & ~standing
    walk = Walk(engine, threat.norm, attacks, outcome, progress)
    below = walk.along((eps for eps in sorted(grid) if eps < threat.eps and not engine.over()), broken)
    counts = [(eps, count + int(standing.sum()), error) for eps, count, error in below]
    failed = [f"{spec}: {record.error}" for spec, record in zip(attacks, outcome.attacks, strict=True) if record.error]
    counts.append((threat.eps, int(standing.sum()), failed[0] if failed else ""))

    def above() -> Iterator[float]:
        for eps in sorted(grid):
            reached, count, _ = counts[-1]
            if count <= enough or reached >= last or engine.over():
                return
            if eps > threat.eps:
                yield eps

    counts.extend(walk.along(above(), standing))
    return [
        CurvePoint(eps, ThreatModel(threat.norm, eps).eps_text, Accuracy.of(count, n), error)
        for eps, count, error in counts
    ]


class Walk:
    """The attacks at ever larger radii; those that can begin from the strongest attempt at the radius before."""

    def __init__(
        self, engine: Engine, norm: Norm, attacks: Sequence[str], outcome: Outcome, progress: Progress | None
    ) -> None:
        self.engine, self.norm, self.attacks, self.progress = engine, norm, attacks, progress
        self.first = outcome.x_adv  # never written to
        self.x_adv = self.first.clone()
        # The nearest verified example of each sample, which breaks it at every radius that holds it.
        self.known = outcome.distance.where(outcome.broken_by >= 0, torch.inf)
        for distances in outcome.nearest.values():
            self.known = torch.minimum(self.known, distances.nan_to_num(nan=torch.inf))

    def along(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Each radius, from the smallest, with how many of the samples met (N, bool) stand at it.

        And the error of an attack that broke off.
        """
        stands = met.clone()
        self.x_adv.copy_(self.first)
        for eps in radii:
            error = self._attack_at(eps, stands)
            yield eps, int(stands.sum()), error

    def down(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Each radius, from the largest, with how many of the samples met (N, bool) are broken at it, and the error.

        What stands at a radius is taken to stand at every smaller one, so each sample withstands the attacks only once.
        """
        broken = met.clone()
        for eps in radii:
            stands = broken.clone()
            error = self._attack_at(eps, stands)
            broken &= ~stands
            yield eps, int(broken.sum()), error

    def _attack_at(self, eps: float, stands: Tensor) -> str:
        """Clears those that break, in place; gives the error of an attack that broke off."""
        stands &= ~(self.known <= eps)
        if eps == 0 or not stands.any():
            return ""
        error, ball = "", ThreatModel(self.norm, eps)
        for rows in stands.nonzero().squeeze(1).split(512):
            self.x_adv[rows] = ball.project(self.x_adv[rows], self.engine.x[rows])
        for number, spec in enumerate(self.attacks):
            try:
                self._strike(spec, number, ball, stands)
            except AttackError as failure:
                error = error or f"{spec}: {failure}"
        return error

    def _strike(self, spec: str, number: int, ball: ThreatModel, stands: Tensor) -> None:
        attack, _ = self.engine.load(spec)
        met = stands.nonzero().squeeze(1)
        start = self.x_adv if takes(attack, "start") else None  # a batch reads its rows before they are written

        def show(batches):
            label = f"{spec.partition('(')[0]} at {ball.eps_text}"
            return self.progress(batches, label, len(met), lambda: int(stands.sum())) if self.progress else batches

        stream = (mix(round(ball.eps * 1e9)), number)
        for found in self.engine.attack(attack, met, ball, stream, start=start, progress=show):
            fooled = found.indices[found.fooled]
            stands[fooled] = False
            self.known[fooled] = torch.minimum(self.known[fooled], found.distance[found.fooled])
            inside = found.margin > -torch.inf
            self.x_adv[found.indices[inside]] = found.x_adv[inside]
