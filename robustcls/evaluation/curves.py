"""Robust accuracy against the radius."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.seeds import mix
from robustcls.core.threat import Norm, ThreatModel, parse_eps
from robustcls.evaluation.attacks import AttackLike, NamedAttack, as_attacks
from robustcls.evaluation.cascade import Outcome, Progress
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Accuracy, CurvePoint

ABOUT_ZERO = 0.01  # robust accuracy at which a curve has shown what it can
SHARES = (0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4, 6, 8)  # of eps, the radii of `auto`; from then on it doubles
DOUBLINGS = 16
AT_A_TIME = 64  # images whose distance is taken, or that are projected


class AutoGrid(tuple[float, ...]):
    """Radii of which those above the threat's own are measured until robust accuracy is about 0%, not all of them."""


def choose_grid(
    eps_grid: str | Sequence[float] | None,
    threat: ThreatModel,
    attacks: Sequence[AttackLike],
    shape: Sequence[int] | None = None,
) -> Sequence[float]:
    """The radii of a security curve; none of None. eps_grid: radii, a list such as `0,2/255`, or `auto`.

    With auto, attacks that leave every small ball, and so have no curve, get none. shape: C,H,W of an image, by which radii of
    l0 are too large. Raises InputError.
    """
    if not eps_grid:
        return []
    if isinstance(eps_grid, AutoGrid):
        return eps_grid
    if not isinstance(eps_grid, str) or eps_grid.strip() != "auto":
        try:
            balls = [replace(threat, eps=eps) for eps in parse_grid(eps_grid)]
            if threat.norm == "l0" and shape is not None:
                balls[-1].check_fits(shape)
        except InputError as error:
            raise InputError(f"`eps_grid`: {error}") from None
        return [ball.eps for ball in balls]
    unrestricted = any(attack.traits.unrestricted for attack in as_attacks(attacks))
    return [] if unrestricted else auto_grid(threat, shape)


def auto_grid(threat: ThreatModel, shape: Sequence[int] | None = None) -> AutoGrid:
    """Radii around that of the threat, from 0 on; in l0 as many values as images C,H,W have that may change at most."""
    shares = [*SHARES, *(SHARES[-1] * 2**doubling for doubling in range(1, DOUBLINGS + 1))]
    radii = {threat.at(share * threat.eps).eps for share in shares}
    if threat.norm == "l0" and shape is not None:
        radii = {min(eps, threat.widest(shape)) for eps in radii}
    return AutoGrid(sorted(radii))


def parse_grid(radii: str | Iterable[float | str]) -> list[float]:
    """Radii from `0,2/255,4/255`, or one by one; from the smallest, without repetitions. Raises InputError."""
    return sorted({parse_eps(part) for part in (radii.split(",") if isinstance(radii, str) else radii)})


def reach(x: Tensor, norm: Norm) -> float:
    """The radius at which the ball around every image holds uniform grey, so that no model can be robust on two classes.

    x: N,C,H,W in [0, 1].
    """
    return max(
        ThreatModel(norm, 0).distance(part, torch.full_like(part, 0.5)).max().item() for part in x.split(AT_A_TIME)
    )


def security_curve(
    engine: Engine, outcome: Outcome, grid: Sequence[float], progress: Progress | None = None
) -> list[CurvePoint]:
    """Robust accuracy under the cascade's attacks at each radius of the grid, and at the threat's own, which it measured.

    Balls are nested: a sample broken at a radius is broken at every larger one, and one robust at the threat's radius is
    at every smaller one. So the curve cannot rise, and below the threat's radius only broken samples are attacked, above
    it only the rest. An AutoGrid ends where robust accuracy is about 0%, at the latest where every ball holds uniform grey.
    Radii that are left when the engine's time is up have no point.
    """
    n, threat, robust = len(engine.y), engine.threat, outcome.robust
    enough, last = (ABOUT_ZERO * n, reach(engine.x, threat.norm)) if isinstance(grid, AutoGrid) else (-1.0, math.inf)
    walk = Walk(engine, outcome.attacks, outcome, progress)
    smaller = (eps for eps in sorted(grid) if eps < threat.eps and not engine.over())
    below = walk.along(smaller, outcome.correct & ~robust)
    counts = [(eps, count + int(robust.sum()), error) for eps, count, error in below]
    failed = [f"{attack.text}: {record.error}" for attack, record in zip(outcome.attacks, outcome.records, strict=True)
              if record.error]  # fmt: skip
    counts.append((threat.eps, int(robust.sum()), failed[0] if failed else ""))

    def larger() -> Iterator[float]:
        for eps in sorted(grid):
            reached, count, _ = counts[-1]
            if count <= enough or reached >= last or engine.over():
                return
            if eps > threat.eps:
                yield eps

    counts.extend(walk.along(larger(), robust))
    return [
        CurvePoint(eps, ThreatModel(threat.norm, eps).eps_text, Accuracy.of(count, n), error)
        for eps, count, error in counts
    ]


class Walk:
    """The attacks at ever larger radii; those that can begin from the strongest attempt at the radius before."""

    def __init__(
        self,
        engine: Engine,
        attacks: Sequence[NamedAttack],
        outcome: Outcome,
        progress: Progress | None = None,
    ) -> None:
        self.engine, self.attacks, self.progress = engine, attacks, progress
        self.first, self.x_adv = outcome.x_adv, outcome.x_adv.clone()  # the first is never written to
        # The nearest verified example of each sample, which breaks it at every radius that holds it.
        self.known = outcome.distance.where(outcome.success, torch.inf)
        for distances in outcome.nearest.values():
            self.known = torch.minimum(self.known, distances.nan_to_num(nan=torch.inf))

    def along(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Each radius, from the smallest, with how many of the samples met (N, bool) are robust at it.

        And the error of an attack that failed.
        """
        robust = met.clone()
        self.x_adv = self.first.clone()
        for eps in radii:
            error = self._attack_at(eps, robust)
            yield eps, int(robust.sum()), error

    def down(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Each radius, from the largest, with how many of the samples met (N, bool) are broken at it, and the error.

        What is robust at a radius is taken to be at every smaller one, so each sample withstands the attacks only once.
        """
        broken = met.clone()
        for eps in radii:
            robust = broken.clone()
            error = self._attack_at(eps, robust)
            broken &= ~robust
            yield eps, int(broken.sum()), error

    def _attack_at(self, eps: float, robust: Tensor) -> str:
        """Clears those that break, in place; gives the error of an attack that failed."""
        robust &= ~(self.known <= eps)
        if eps == 0 or not robust.any():
            return ""
        error, ball = "", self.engine.threat.at(eps)
        for rows in robust.nonzero().squeeze(1).split(AT_A_TIME):
            self.x_adv[rows] = ball.project(self.x_adv[rows], self.engine.x[rows])
        for number, attack in enumerate(self.attacks):
            try:
                self._attack_with(attack, number, ball, robust)
            except AttackError as failure:
                error = error or f"{attack.text}: {failure}"
        return error

    def _attack_with(self, attack: NamedAttack, number: int, ball: ThreatModel, robust: Tensor) -> None:
        met = robust.nonzero().squeeze(1)
        start = self.x_adv if attack.takes("start") else None  # a batch reads its rows before they are written

        def show(batches):
            label = f"{attack.text.partition('(')[0]} at {ball.eps_text}"
            return self.progress(batches, label, len(met), lambda: int(robust.sum())) if self.progress else batches

        stream = (mix(round(ball.eps * 1e9)), number)
        for attempts in self.engine.attack(attack, met, ball, stream, start=start, progress=show):
            broken = attempts.indices[attempts.success]
            robust[broken] = False
            self.known[broken] = torch.minimum(self.known[broken], attempts.distance[attempts.success])
            inside = attempts.margin > -torch.inf
            self.x_adv[attempts.indices[inside]] = attempts.x_adv[inside]
