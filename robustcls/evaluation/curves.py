"""Security curves: robust accuracy over a range of radii."""

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

ABOUT_ZERO = 0.01  # robust accuracy at which an automatic curve ends
SHARES = (0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4, 6, 8)  # radii of `auto`, in eps; after these the radius doubles
DOUBLINGS = 16
AT_A_TIME = 64  # images per batch when distances are computed or images projected


class AutoGrid(tuple[float, ...]):
    """Radii of `auto`: those above the threat model's radius are measured only until robust accuracy is about 0%."""


def choose_grid(
    eps_grid: str | Sequence[float] | None,
    threat: ThreatModel,
    attacks: Sequence[AttackLike],
    shape: Sequence[int] | None = None,
) -> Sequence[float]:
    """Return the radii of a security curve; none for None. eps_grid: radii, text such as `0,2/255`, or `auto`.

    `auto` gives no radii if an attack leaves every small ball, because then there is no curve. shape: C,H,W of an image, which
    limits radii in l0. Raises InputError.
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
    """Return radii from 0 to well above the threat model's. shape: C,H,W, whose number of values limits radii in l0."""
    shares = [*SHARES, *(SHARES[-1] * 2**doubling for doubling in range(1, DOUBLINGS + 1))]
    radii = {threat.at(share * threat.eps).eps for share in shares}
    if threat.norm == "l0" and shape is not None:
        radii = {min(eps, threat.widest(shape)) for eps in radii}
    return AutoGrid(sorted(radii))


def parse_grid(radii: str | Iterable[float | str]) -> list[float]:
    """Return radii, from text such as `0,2/255,4/255` or one by one, sorted and without repetitions. Raises InputError."""
    return sorted({parse_eps(part) for part in (radii.split(",") if isinstance(radii, str) else radii)})


def reach(x: Tensor, norm: Norm) -> float:
    """Return the radius at which the ball around every image contains uniform grey. x: N,C,H,W in [0, 1].

    At this radius no model can be robust on images of two classes.
    """
    return max(
        ThreatModel(norm, 0).distance(part, torch.full_like(part, 0.5)).max().item() for part in x.split(AT_A_TIME)
    )


def security_curve(
    engine: Engine, outcome: Outcome, grid: Sequence[float], progress: Progress | None = None
) -> list[CurvePoint]:
    """Return robust accuracy under the cascade's attacks at each radius of the grid, and at the threat model's own radius.

    Balls are nested: a sample broken at one radius counts as broken at every larger one, and a sample robust at the threat
    model's radius counts as robust at every smaller one. The curve therefore cannot rise. Below the threat model's radius only
    broken samples are attacked, above it only robust ones. An AutoGrid ends where robust accuracy is about 0%, at the latest
    where every ball contains uniform grey. Radii not reached before the engine's time limit get no point.
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
    """Run attacks at a sequence of radii. Attacks that take a start begin from the strongest attempt at the previous radius."""

    def __init__(
        self,
        engine: Engine,
        attacks: Sequence[NamedAttack],
        outcome: Outcome,
        progress: Progress | None = None,
    ) -> None:
        self.engine, self.attacks, self.progress = engine, attacks, progress
        self.first, self.x_adv = outcome.x_adv, outcome.x_adv.clone()  # the first is never written to
        # The distance of each sample's nearest verified example, which breaks it at every radius from there on.
        self.known = outcome.distance.where(outcome.success, torch.inf)
        for distances in outcome.nearest.values():
            self.known = torch.minimum(self.known, distances.nan_to_num(nan=torch.inf))

    def along(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Yield, for each radius from the smallest, how many of the samples `met` (N, bool) are robust at it.

        The third value is the error of an attack that failed, or "".
        """
        robust = met.clone()
        self.x_adv = self.first.clone()
        for eps in radii:
            error = self._attack_at(eps, robust)
            yield eps, int(robust.sum()), error

    def down(self, radii: Iterable[float], met: Tensor) -> Iterator[tuple[float, int, str]]:
        """Yield, for each radius from the largest, how many of the samples `met` (N, bool) are broken at it, and the error.

        A sample that is robust at one radius counts as robust at every smaller one, and is not attacked again.
        """
        broken = met.clone()
        for eps in radii:
            robust = broken.clone()
            error = self._attack_at(eps, robust)
            broken &= ~robust
            yield eps, int(broken.sum()), error

    def _attack_at(self, eps: float, robust: Tensor) -> str:
        """Set `robust` to False, in place, for samples that break; return the error of an attack that failed, or ""."""
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
        start = self.x_adv if attack.takes("start") else None  # a batch reads its rows before it writes them

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
