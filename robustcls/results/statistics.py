"""Intervals and paired tests for accuracies, in plain Python, because the report runs without torch."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import NormalDist

Z95 = 1.959963984540054


def clopper_pearson_low(count: int, n: int, alpha: float) -> float:
    """Return the exact one-sided lower confidence bound on a probability, for `count` successes in n draws.

    The confidence is 1 - alpha (Clopper and Pearson 1934): at the bound, `count` or more successes have probability alpha.
    """
    from scipy.special import betaincinv

    return float(betaincinv(count, n - count + 1, alpha)) if count else 0.0


def bonferroni(count: int) -> float:
    """Return the z value for `count` two-sided intervals that all hold at the same time with a probability of at least 95%.

    Each interval covers 1 - 0.05 / count (Bonferroni's inequality; Dunn 1961). count: at least 1.
    """
    return NormalDist().inv_cdf(1 - 0.05 / (2 * count))


def wilson(correct: float, total: float, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of correct / total (Wilson 1927), 95% by default; (0, 1) if total is 0."""
    if total == 0:
        return 0.0, 1.0
    p, z2 = correct / total, z**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    # Clamped to include the estimate, which rounding errors may exclude at 0 and at 1.
    return min(max(0.0, centre - half), p), max(min(1.0, centre + half), p)


def agreement(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, int, int]:
    """Return on how many samples both are correct, only the first, only the second, and neither."""
    counts = Counter(zip(first, second, strict=True))
    return counts[True, True], counts[True, False], counts[False, True], counts[False, False]


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the exact two-sided McNemar p-value for two classifiers on the same samples (McNemar 1947).

    first, second: whether each sample was classified correctly. The p-value is 1 if they never disagree.
    """
    _, only_first, only_second, _ = agreement(first, second)
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, log_terms)))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    """Return the accuracy of second minus first on the same samples, with its 95% interval (Newcombe 1998, method 10)."""
    a, b, c, d = agreement(first, second)
    n = len(first)
    if n == 0:
        return 0.0, (-1.0, 1.0)
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    numerator: float = a * d - b * c
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)  # the continuity correction of the method
    phi = numerator / math.sqrt(margins) if margins else 0.0
    down = math.sqrt(max(0.0, (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2))
    up = math.sqrt(max(0.0, (u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2))
    return p2 - p1, (max(-1.0, p2 - p1 - down), min(1.0, p2 - p1 + up))


def quartiles(values: Sequence[float]) -> list[float | None]:
    """Return the three quartiles, by linear interpolation. The second is the median.

    Values may be inf (censored); a quartile that depends on one of these is None. Without values, all are None.
    """
    ordered, result = sorted(values), []
    for quarter in (1, 2, 3):
        low, rest = divmod(quarter * (len(ordered) - 1), 4)
        ends = ordered[low : low + (2 if rest else 1)]
        known = ends and ends[-1] < math.inf
        result.append(ends[0] + (ends[-1] - ends[0]) * rest / 4 if known else None)
    return result


def mean_of_shares(counts: Sequence[tuple[int, int]]) -> tuple[float, tuple[float, float]]:
    """Return the unweighted mean of the shares correct / total of independent groups, with its 95% interval.

    Two intervals are computed, and each end is the farther one of the two. The first combines the Wilson intervals of the
    groups: the square root of the sum of squared margins, divided by the number of groups (Zou, Huang and Zhang 2009,
    Comput. Stat. Data Anal. 53:1080). It is too narrow for groups of one or two samples. The second is therefore the Wilson
    interval of the mean for the number of groups times the harmonic mean of their sizes, which has the same variance.
    counts: (correct, total), with total above 0. Without groups, the result is (0, (0, 1)).
    """
    if not counts:
        return 0.0, (0.0, 1.0)
    k, shares = len(counts), [correct / total for correct, total in counts]
    mean = math.fsum(shares) / k
    ends = [wilson(correct, total) for correct, total in counts]
    down = math.hypot(*(share - low for share, (low, _) in zip(shares, ends, strict=True))) / k
    up = math.hypot(*(high - share for share, (_, high) in zip(shares, ends, strict=True))) / k
    size = k**2 / math.fsum(1 / total for _, total in counts)
    low, high = wilson(mean * size, size)
    return mean, (max(0.0, min(low, mean - down)), min(1.0, max(high, mean + up)))


def mean_between(values: Sequence[float], low: float, high: float) -> tuple[float, tuple[float, float]]:
    """Return the mean of values between `low` and `high`, with a 95% interval that stays between them. At least one value.

    It is the Wilson interval of the relative position of the mean, for a number of binary samples with the same variance. If
    all values are equal, it is the number of values.
    """
    n, reach = len(values), high - low or 1.0
    shares = [(value - low) / reach for value in values]
    mean = math.fsum(shares) / n
    variance = math.fsum((share - mean) ** 2 for share in shares) / max(n - 1, 1) / n
    ends = wilson(mean * n, n) if variance == 0 else wilson(mean * (size := mean * (1 - mean) / variance), size)
    return low + reach * mean, (low + reach * ends[0], min(high, low + reach * ends[1]))


def student_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Return the mean of two or more values, such as one per seed, with its 95% interval by Student's t."""
    from scipy.special import stdtrit

    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return mean, (mean - half, mean + half)


def repeated_shares(
    right: Sequence[Sequence[bool]],
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Return mean accuracy over repeated random passes on the same samples, with two 95% intervals.

    The first interval is for samples and noise: the Wilson interval for a number of independent samples with the same
    variance of the mean. This variance is the one between samples plus the one between passes, which accounts for noise that
    is shared by the samples of a pass. The second interval is for the noise only: Student's t over the passes.
    right: two passes or more, each with at least one sample.
    """
    passes, n = len(right), len(right[0])
    of_passes, of_samples = (
        [math.fsum(one) / n for one in right],
        [math.fsum(one) / passes for one in zip(*right, strict=True)],
    )
    mean = math.fsum(of_passes) / passes
    between_passes = math.fsum((one - mean) ** 2 for one in of_passes) / (passes - 1) / passes
    between_samples = math.fsum((one - mean) ** 2 for one in of_samples) / max(n - 1, 1) / n
    variance = between_samples + between_passes
    size = mean * (1 - mean) / variance if variance > 0 else n
    half = _student95(passes - 1) * math.sqrt(between_passes)
    return mean, wilson(mean * size, size), (max(0.0, mean - half), min(1.0, mean + half))


def _student95(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t, by expansion around the normal quantile (Abramowitz and Stegun 26.7.5)."""
    z, v = Z95, freedom
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Return the area under the ROC curve: the probability that a positive sample scores higher than a negative one.

    Ties count half. Computed as the Mann-Whitney statistic (Hanley and McNeil 1982). Scores may be infinite. Raises
    ValueError if there are no positive or no negative samples.
    """
    positives = sum(positive)
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError("an area under the ROC curve needs samples of both classes")
    ranked = sorted(zip(scores, positive, strict=True))
    twice, below, place = 0, 0, 0  # twice the number of wins, so that ties are whole numbers
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][0] == ranked[place][0]:
            end += 1
        tied_positives = sum(kind for _, kind in ranked[place:end])
        tied_negatives = end - place - tied_positives
        twice += tied_positives * (2 * below + tied_negatives)
        below, place = below + tied_negatives, end
    return twice / (2 * positives * negatives)


def auc_interval(auc: float, positives: int, negatives: int, z: float = Z95) -> tuple[float, float]:
    """Return the interval of an area under the ROC curve (Newcombe 2006, Stat. Med. 25:559, method 5).

    It contains the areas within z standard errors, where the standard error is that of Hanley and McNeil at this area, with
    the mean of the two sample sizes in place of each. It stays inside [0, 1], and is not empty for perfectly separated classes.
    """
    mean = (positives + negatives) / 2 - 1

    def inside(area: float) -> bool:
        spread = 1 + mean * ((1 - area) / (2 - area) + area / (1 + area))
        return (area - auc) ** 2 <= z**2 * area * (1 - area) * spread / (positives * negatives)

    return _farthest(inside, auc, 0.0), _farthest(inside, auc, 1.0)


def _farthest(inside: Callable[[float], bool], start: float, end: float) -> float:
    """Return the last point from start towards end that is inside, found by bisection."""
    if inside(end):
        return end
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if inside(middle) else (start, middle)
    return start
