"""Records of certificates: the radius within which each prediction is proven against every attack. Needs no PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy, need_around
from robustcls.results.fields import SLACK, Count, Distance, Integer, Interval, Number, Share, need
from robustcls.results.statistics import clopper_pearson_low

Probability = Annotated[float, Field(strict=True, gt=0, lt=1)]
HOLDS = 1e-9  # relative tolerance for rounding when radii are compared


def smoothed_radius(count: int, n: int, alpha: float, sigma: float) -> float:
    """Return the certified l2 radius sigma Phi^-1(p) for a class that `count` of n draws gave.

    p is the lower confidence bound, at level 1 - alpha, on the probability of the class. Within this radius the smoothed
    classifier predicts the class with confidence 1 - alpha (Cohen et al. 2019, arXiv:1902.02918, theorem 1). The radius is 0
    if p is at most 1/2; the smoothed classifier then abstains.
    """
    from scipy.special import ndtri

    low = clopper_pearson_low(count, n, alpha)
    return sigma * float(ndtri(low)) if low > 0.5 else 0.0


def radius_text(radius: float, grey_levels: bool) -> str:
    """Return a radius as text, in 255ths or as a decimal."""
    return f"{255 * radius:.4g}/255" if grey_levels and radius else f"{radius:.4g}"


@dataclass
class CertifiedSample:
    """One image: the prediction of the certified classifier, and the radius within which it is proven to be correct."""

    index: Count  # position in the split
    label: Count
    predicted: Count | None  # None: it abstains
    radius: Distance  # certified radius of the label; 0 if the prediction is wrong or missing
    candidate: Count | None = None  # smoothing: class chosen by the first draws; None if most of them gave no class
    count: Count | None = None  # smoothing: number of the n draws that gave the candidate

    def holds(self, radius: float) -> bool:
        """Whether the prediction is correct and certified within this radius."""
        return self.predicted == self.label and self.radius >= radius * (1 - HOLDS)


@dataclass
class CertifiedPoint:
    """Certified accuracy at one radius: the share of samples whose prediction is correct and certified within it."""

    radius: Distance
    accuracy: Share
    ci95: Interval  # 95% interval for the choice of the samples
    correct: Count
    total: Count


@dataclass
class Certified:
    """Certified accuracy: a lower bound on the robust accuracy of this classifier, in this norm, under any attack.

    With smoothing, each certificate holds with probability 1 - alpha: of n certificates, at most alpha * n are expected to be
    false. With bounds, every certificate holds for certain: they are computed in float64, for a radius larger by a millionth.
    """

    method: Literal["smoothing", "bounds"]
    norm: str
    curve: list[CertifiedPoint]  # by radius, in ascending order
    samples: list[CertifiedSample]
    sigma: Number | None = None  # smoothing: standard deviation of the noise, for pixels in [0, 1]
    n: Count | None = None  # smoothing: number of draws that are counted, per image
    n0: Count | None = None  # smoothing: number of draws that choose the candidate, per image
    alpha: Probability | None = None  # smoothing: probability that a certificate is false
    abstained: Count = 0  # number of samples without a prediction
    algorithm: str = ""  # bounds: how they were computed, in words
    precision: str = "fp32"  # precision in which the certified classifier runs
    seed: Integer = 0  # seed of the draws
    batch_size: Integer = 0
    weights_sha256: str = ""  # digest of the network's tensors (smoothing: of the network inside); "": not known
    images_sha256: str = ""  # digest of pixels and labels, in the order of the index
    # Of the network on the clean images with the lowest indices: largest logit minus the second; []: not recorded. They
    # distinguish networks with the same weights but other code or another normalisation.
    margins: list[Number] = field(default_factory=list)
    device: str = ""
    seconds: Number = 0.0
    command: str = ""

    @classmethod
    def of(
        cls, method: str, norm: str, samples: Sequence[CertifiedSample], radii: Sequence[float], **more: Any
    ) -> "Certified":
        """Create the record with its curve at these radii. more: the other fields."""
        record = cls(method, norm, [], list(samples), **more)  # type: ignore[arg-type]
        record.abstained = sum(one.predicted is None for one in samples)
        record.curve = [record._point(radius) for radius in sorted(radii)]
        return record

    def at(self, radius: float) -> Accuracy:
        """Return certified accuracy at a radius; at 0 it is the share of samples with a correct prediction."""
        return Accuracy.of(sum(one.holds(radius) for one in self.samples), len(self.samples), "lower bound: certified")

    @property
    def how(self) -> str:
        """The method in words: `smoothing with sigma 0.25, 1,000 draws, alpha 0.001`."""
        copied = f", of the copy in {self.precision}" if self.precision != "fp32" else ""
        if self.method == "bounds":
            return f"bounds{copied}"
        return f"smoothing with sigma {self.sigma:g}, {self.n:,} draws, alpha {self.alpha:g}{copied}"

    @property
    def grey_levels(self) -> bool:
        """Whether the radii of the curve are written in 255ths: for linf, if one is a whole number of grey levels and if not
        all are short decimals.
        """
        radii = [point.radius for point in self.curve if point.radius > 0]
        exact = all(math.isclose(float(f"{radius:.4g}"), radius, rel_tol=1e-9) for radius in radii)
        whole = any(math.isclose(255 * radius, round(255 * radius), rel_tol=1e-6) for radius in radii)
        return self.norm == "linf" and whole and not exact

    def text(self, radius: float) -> str:
        """Return a radius as text: `2/255`, or a decimal."""
        return radius_text(radius, self.grey_levels)

    def _point(self, radius: float) -> CertifiedPoint:
        at = self.at(radius)
        return CertifiedPoint(radius, at.accuracy, at.ci95, at.correct, at.total)

    def check(self) -> None:
        """Raise ValueError for the first contradiction between numbers."""
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
                tried = one.radius == 0 or any(math.isclose(one.radius, point.radius) for point in self.curve)
                need(
                    tried, f"{path}.radius", one.radius, "one of the radii of the curve, at which bounds were computed"
                )
        abstained = sum(one.predicted is None for one in self.samples)
        need(self.abstained == abstained, "certified.abstained", self.abstained, f"{abstained}, as its samples say")
        for place, point in enumerate(self.curve):
            path, at = f"certified.curve.{place}", self.at(point.radius)
            same = (point.correct, point.total) == (at.correct, at.total)
            need(same, f"{path}.correct", point.correct, f"{at.correct} of {at.total}, as its samples say")
            close = abs(point.accuracy - at.accuracy) < SLACK
            need(close, f"{path}.accuracy", point.accuracy, f"{at.correct} of {at.total}")
            need_around(point.ci95, point.accuracy)

    def _check_smoothed(self, one: CertifiedSample, path: str) -> None:
        """The prediction and the radius of a sample must follow from its count."""
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
