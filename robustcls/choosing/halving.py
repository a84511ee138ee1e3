"""Successive halving, and what may be said of its outcome. Plain Python: nothing here trains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustcls.results.statistics import paired_difference, wilson


def rung_sizes(candidates: int) -> list[int]:
    """How many candidates are trained in each rung, until one would be left: 6, 3, 2 of six (arXiv:1502.07943)."""
    sizes = []
    while candidates > 1:
        sizes.append(candidates)
        candidates = math.ceil(candidates / 2)
    return sizes


@dataclass(frozen=True)
class Budget:
    """Seconds that a candidate may take in each rung, and each run beyond the rungs."""

    rungs: tuple[float, ...]
    extra: float  # as much as in the last rung


def share_out(seconds: float, candidates: int, extra: int = 0) -> Budget:
    """Shares the seconds out: each rung has as many in all, each candidate of a rung as many as the others.

    extra: runs beyond the rungs, under other seeds or on fewer images, each as long as one of the last rung.
    """
    sizes = rung_sizes(candidates)
    whole = seconds / (len(sizes) + extra / sizes[-1])
    return Budget(tuple(whole / size for size in sizes), whole / sizes[-1])


Right = Sequence[bool]  # whether each validation image is classified correctly, in the same order for every candidate


def ranked(robust: Mapping[str, Right], clean: Mapping[str, Right]) -> list[str]:
    """The candidates, the best first: by the lower end of the 95% Wilson interval of robust accuracy, then by clean accuracy,
    then in the order given."""

    def score(name: str) -> tuple[float, int]:
        return wilson(sum(robust[name]), len(robust[name]))[0], sum(clean[name])

    return sorted(robust, key=score, reverse=True)  # stable: also in reverse, equal ones stay in order


def survivors(order: Sequence[str]) -> list[str]:
    """The better half of a rung, rounded up."""
    return list(order[: math.ceil(len(order) / 2)])


@dataclass(frozen=True)
class Difference:
    """Accuracy of one minus that of another on the same images, with its 95% interval (Newcombe's)."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, one: Right, other: Right) -> "Difference":
        return cls(*paired_difference(other, one))

    def claimable(self, noise: float = 0.0) -> bool:
        """Whether it may be claimed: the interval leaves out 0, and it is larger than what other seeds make of one recipe."""
        low, high = self.ci95
        return (low > 0 or high < 0) and abs(self.value) > noise


def seed_noise(accuracies: Sequence[float]) -> float:
    """The smallest difference that may be claimed: the range of one recipe's accuracy under several seeds."""
    return max(accuracies) - min(accuracies)


def pareto(figures: Mapping[str, Sequence[float]]) -> set[str]:
    """Those that no other is at least as good as in everything and better in something. figures: larger is better."""

    def beaten(name: str) -> bool:
        mine = figures[name]
        return any(
            all(a >= b for a, b in zip(theirs, mine, strict=True)) and tuple(theirs) != tuple(mine)
            for theirs in figures.values()
        )

    return {name for name in figures if not beaten(name)}
