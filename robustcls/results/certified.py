"""Certificates: within which radius the prediction on each sample is proven, whatever the attack; without PyTorch."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy, need_around
from robustcls.results.fields import SLACK, Count, Distance, Integer, Interval, Number, Share, need
from robustcls.results.statistics import clopper_pearson_low

Probability = Annotated[float, Field(strict=True, gt=0, lt=1)]
HOLDS = 1e-9  # by which a radius may miss one that it reaches, for rounding


def smoothed_radius(count: int, n: int, alpha: float, sigma: float) -> float:
    """sigma Phi^-1(p), where p is the lower bound at alpha of the probability that `count` of n draws gave a class.

    Within this l2 radius the class is the smoothed classifier's with confidence 1 - alpha (Cohen et al. 2019,
    arXiv:1902.02918, theorem 1); 0 where p is at most 1/2, so that it abstains.
    """
    from scipy.special import ndtri

    low = clopper_pearson_low(count, n, alpha)
    return sigma * float(ndtri(low)) if low > 0.5 else 0.0


def radius_text(radius: float, grey_levels: bool) -> str:
    """In 255ths, or as a decimal."""
    return f"{255 * radius:.4g}/255" if grey_levels and radius else f"{radius:.4g}"


@dataclass
class CertifiedSample:
    """One image: what the certified classifier answers, and within which radius that is proven to be right."""

    index: Count  # in the split
    label: Count
    predicted: Count | None  # None: it abstains
    radius: Distance  # within which the label is proven; 0 where the answer is wrong, or there is none
    candidate: Count | None = None  # of smoothing: the class that the first draws named, None where most named no class
    count: Count | None = None  # of smoothing: how many of the n draws gave the candidate

    def holds(self, radius: float) -> bool:
        """Whether the answer is right, and proven to stay so within this radius."""
        return self.predicted == self.label and self.radius >= radius * (1 - HOLDS)


@dataclass
class CertifiedPoint:
    """Certified accuracy at one radius: the share of samples whose answer is right and proven within it."""

    radius: Distance
    accuracy: Share
    ci95: Interval  # for the choice of the samples
    correct: Count
    total: Count


@dataclass
class Certified:
    """Certified accuracy, a lower bound on what any attack leaves of this very classifier, in this norm.

    By smoothing each certificate holds with probability 1 - alpha: of n samples at most alpha * n are expected to have a
    false one. By bounds each holds for certain: they are computed in float64, at a radius larger by a millionth.
    """

    method: Literal["smoothing", "bounds"]
    norm: str
    curve: list[CertifiedPoint]  # by radius, from the smallest
    samples: list[CertifiedSample]
    sigma: Number | None = None  # of smoothing: the standard deviation of the noise, on pixels in [0, 1]
    n: Count | None = None  # of smoothing: draws that count
    n0: Count | None = None  # of smoothing: draws that choose the candidate
    alpha: Probability | None = None  # of smoothing: the probability that one certificate is false
    abstained: Count = 0  # samples without an answer
    algorithm: str = ""  # of bounds: how they were computed, in words
    precision: str = "fp32"  # in which the classifier ran that is certified
    seed: Integer = 0  # of the draws
    batch_size: Integer = 0
    weights_sha256: str = ""  # of the network's tensors, of smoothing of the one inside; "": not known
    images_sha256: str = ""  # of the pixels and labels, in the order of the index
    device: str = ""
    seconds: Number = 0.0
    command: str = ""

    @classmethod
    def of(
        cls, method: str, norm: str, samples: Sequence[CertifiedSample], radii: Sequence[float], **more: Any
    ) -> "Certified":
        """With the curve at these radii. more: the other fields."""
        record = cls(method, norm, [], list(samples), **more)  # type: ignore[arg-type]
        record.abstained = sum(one.predicted is None for one in samples)
        record.curve = [record._point(radius) for radius in sorted(radii)]
        return record

    def at(self, radius: float) -> Accuracy:
        """Certified accuracy at a radius; at 0 the share of samples whose answer is right."""
        return Accuracy.of(sum(one.holds(radius) for one in self.samples), len(self.samples), "lower bound: certified")

    @property
    def how(self) -> str:
        """How it was proven, in words: `smoothing with sigma 0.25, 1,000 draws, alpha 0.001`."""
        copied = f", of the copy in {self.precision}" if self.precision != "fp32" else ""
        if self.method == "bounds":
            return f"bounds{copied}"
        return f"smoothing with sigma {self.sigma:g}, {self.n:,} draws, alpha {self.alpha:g}{copied}"

    @property
    def grey_levels(self) -> bool:
        """Whether the radii of the curve are ones that people write in 255ths: of linf, a whole one among them, and decimals
        do not say them all."""
        radii = [point.radius for point in self.curve if point.radius > 0]
        exact = all(math.isclose(float(f"{radius:.4g}"), radius, rel_tol=1e-9) for radius in radii)
        whole = any(math.isclose(255 * radius, round(255 * radius), rel_tol=1e-6) for radius in radii)
        return self.norm == "linf" and whole and not exact

    def text(self, radius: float) -> str:
        """A radius as people write it: `2/255`, or a decimal."""
        return radius_text(radius, self.grey_levels)

    def _point(self, radius: float) -> CertifiedPoint:
        found = self.at(radius)
        return CertifiedPoint(radius, found.accuracy, found.ci95, found.correct, found.total)

    def check(self) -> None:
        """Raises ValueError, with the first place, where numbers contradict each other."""
        need(bool(self.curve), "certified.curve", self.curve, "a radius or more")
        seen: set[int] = set()
        for place, one in enumerate(self.samples):
            path = f"certified.samples.{place}"
            need(one.index not in seen, f"{path}.index", one.index, "a sample of its own")
            seen.add(one.index)
            right = one.predicted == one.label
            need(right or one.radius == 0, f"{path}.radius", one.radius, "0, as where the answer is wrong or none")
            if self.method == "smoothing":
                self._check_smoothed(one, path)
            else:
                tried = one.radius == 0 or any(math.isclose(one.radius, its.radius) for its in self.curve)
                need(
                    tried, f"{path}.radius", one.radius, "one of the radii of the curve, at which bounds were computed"
                )
        abstained = sum(one.predicted is None for one in self.samples)
        need(self.abstained == abstained, "certified.abstained", self.abstained, f"{abstained}, as its samples say")
        for place, point in enumerate(self.curve):
            path, found = f"certified.curve.{place}", self.at(point.radius)
            same = (point.correct, point.total) == (found.correct, found.total)
            need(same, f"{path}.correct", point.correct, f"{found.correct} of {found.total}, as its samples say")
            close = abs(point.accuracy - found.accuracy) < SLACK
            need(close, f"{path}.accuracy", point.accuracy, f"{found.correct} of {found.total}")
            need_around(point.ci95, point.accuracy)

    def _check_smoothed(self, one: CertifiedSample, path: str) -> None:
        """The answer and the radius are those of its count."""
        sigma, n, alpha = self.sigma, self.n, self.alpha
        if sigma is None or n is None or alpha is None or self.norm != "l2":
            raise ValueError("certified: smoothing has sigma, n and alpha, and its norm is l2")
        need(one.count is not None and one.count <= n, f"{path}.count", one.count, f"a count of {n} draws")
        assert one.count is not None
        proven = smoothed_radius(one.count, n, alpha, sigma) if one.candidate is not None else 0.0
        answer = one.candidate if proven > 0 else None
        need(one.predicted == answer, f"{path}.predicted", one.predicted, f"{answer}, what its count proves")
        radius = proven if one.predicted == one.label else 0.0
        close = math.isclose(one.radius, radius, rel_tol=1e-6, abs_tol=1e-9)
        need(close, f"{path}.radius", one.radius, f"{radius:.6g}, what its count proves")
