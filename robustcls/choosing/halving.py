"""Successive halving, and the statistics of its outcome, in plain Python without any training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustcls.results.statistics import paired_difference, wilson


def rung_sizes(candidates: int) -> list[int]:
    """Return the number of candidates in each rung, until one is left: 6, 3, 2 for six candidates (arXiv:1502.07943)."""
    sizes = []
    while candidates > 1:
        sizes.append(candidates)
        candidates = math.ceil(candidates / 2)
    return sizes


@dataclass(frozen=True)
class Budget:
    """The seconds for a candidate in each rung, and for each run beyond the rungs."""

    rungs: tuple[float, ...]
    extra: float  # the same as in the last rung


def share_out(seconds: float, candidates: int, extra: int = 0) -> Budget:
    """Divide the time: all rungs get the same total time, and all candidates of a rung the same share of it.

    extra: number of runs beyond the rungs, with other seeds or on fewer images, each as long as a run of the last rung.
    """
    sizes = rung_sizes(candidates)
    whole = seconds / (len(sizes) + extra / sizes[-1])
    return Budget(tuple(whole / size for size in sizes), whole / sizes[-1])


Right = Sequence[bool]  # whether each validation image is classified correctly, in the same order for every candidate


def ranked(robust: Mapping[str, Right], clean: Mapping[str, Right]) -> list[str]:
    """Return the candidates, the best first.

    They are ranked by the lower end of the 95% Wilson interval of robust accuracy, then by clean accuracy, then in the given
    order.
    """

    def score(name: str) -> tuple[float, int]:
        return wilson(sum(robust[name]), len(robust[name]))[0], sum(clean[name])

    return sorted(robust, key=score, reverse=True)  # stable even with reverse=True: ties keep the given order


def survivors(order: Sequence[str]) -> list[str]:
    """Return the better half of a rung, rounded up."""
    return list(order[: math.ceil(len(order) / 2)])


@dataclass(frozen=True)
class Difference:
    """A paired difference in accuracy on the same images, with its 95% interval (Newcombe)."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, one: Right, other: Right) -> "Difference":
        return cls(*paired_difference(other, one))

    def claimable(self, noise: float = 0.0) -> bool:
        """Whether the difference may be claimed: its interval excludes 0, and it exceeds the seed noise."""
        low, high = self.ci95
        return (low > 0 or high < 0) and abs(self.value) > noise


def seed_noise(accuracies: Sequence[float]) -> float:
    """Return the smallest difference that may be claimed: the range of a recipe's accuracy over several seeds."""
    return max(accuracies) - min(accuracies)


def pareto(figures: Mapping[str, Sequence[float]]) -> set[str]:
    """Return the Pareto-optimal candidates: no other is at least as good in all figures and better in one.

    figures: for all of them, larger is better.
    """

    def beaten(name: str) -> bool:
        own = figures[name]
        return any(
            all(a >= b for a, b in zip(other, own, strict=True)) and tuple(other) != tuple(own)
            for other in figures.values()
        )

    return {name for name in figures if not beaten(name)}
