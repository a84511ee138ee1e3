"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918): certified l2 radii of a majority vote under noise.

    g(x) = argmax_c P(f(x + noise) = c),  noise ~ N(0, sigma^2 I) on pixels in [0, 1], not clamped, before normalisation

Differences from the paper's code: each sample's counted draws come from their own random stream, in blocks, so that neither the
batch size nor the order of samples changes a count; draws for which the model predicts no class (NaN) vote for none.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor, nn

from robustcls.core.classifier import dtype_of
from robustcls.core.errors import InputError
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.seeds import mix
from robustcls.models.wrappers.smoothed import check_sigma, whole
from robustcls.results.certified import smoothed_radius
from robustcls.runtime.memory import OomSafeBatches

ABSTAIN = -1  # in place of a label
BLOCK = 100  # draws of a sample that share one generator
STREAM = mix(*b"smoothing")  # identifies the random numbers used here
SELECT, COUNT, VOTE = range(3)  # the purposes of draws
PROBED = 4  # draws with which to test whether a model is fixed
# Differences allowed in the logits of a fixed model, relative to the largest logit: between passes, and between batches.
REPEATED, COMPANY = 1e-4, 1e-3


@dataclass(frozen=True)
class Smoothing:
    """How a model is smoothed and certified. Raises InputError for values with which nothing can be certified.

    sigma: standard deviation of the noise. n0: number of draws that choose the candidate class. n: number of draws that count
    it. alpha: the probability that a certificate is false.
    """

    sigma: float
    n: int = 1000
    n0: int = 100
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        for name in ("n", "n0"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if not isinstance(self.alpha, Real):
            raise InputError(f"alpha={self.alpha!r:.40} is not a number: give a probability of error, such as 0.001")
        if not 0 < self.alpha < 0.5:
            raise InputError(
                f"alpha={self.alpha:g} is not a valid probability of error: give a number above 0 and below 0.5, such as 0.001"
            )
        if self.n0 < 1:
            raise InputError(f"{self.n0} draws cannot choose a class: use 1 or more, such as 100")
        if self.n < (least := least_draws(self.alpha)):
            raise InputError(
                f"{self.n} draws cannot certify anything at alpha {self.alpha:g}, even if all give one class: use {least} or "
                "more, such as 1000"
            )

    @property
    def largest(self) -> float:
        """The largest possible radius: that of a sample for which all draws give one class."""
        return smoothed_radius(self.n, self.n, self.alpha, self.sigma)


def least_draws(alpha: float) -> int:
    """Return the fewest draws that can certify: if all n give one class, the lower bound alpha^(1/n) must exceed 1/2."""
    n = max(1, math.floor(-math.log2(alpha)))
    return next(many for many in range(n, n + 3) if alpha ** (1 / many) > 0.5)


@dataclass(frozen=True)
class Certificate:
    """The certificate of one sample. predicted: the class, or ABSTAIN. radius: within which it is proven, or 0."""

    predicted: int
    radius: float
    candidate: int  # the most frequent class of the first draws; NO_ANSWER if most gave no class
    count: int  # how many of the n draws gave the candidate
    voted: int  # the most frequent class of the n draws


def certify(votes: Callable[..., Tensor], smoothing: Smoothing) -> Certificate:
    """CERTIFY of the paper.

    votes: `votes(n, purpose)` returns how many of n draws gave each of K classes and, last, how many gave none: K + 1.
    """
    candidate = _top(votes(smoothing.n0, SELECT))
    counts = votes(smoothing.n, COUNT)
    voted, count = _top(counts), int(counts[candidate]) if candidate != NO_ANSWER else 0
    radius = smoothed_radius(count, smoothing.n, smoothing.alpha, smoothing.sigma)
    return Certificate(candidate if radius > 0 else ABSTAIN, radius, candidate, count, voted)


def predict(votes: Callable[..., Tensor], n: int, alpha: float) -> int:
    """PREDICT of the paper: return the smoothed classifier's class with confidence 1 - alpha, or ABSTAIN.

    This is the most frequent class, if a two-sided binomial test against the second most frequent one is significant.
    """
    from scipy.stats import binomtest

    counts = votes(n, VOTE)
    if (best := _top(counts)) == NO_ANSWER:
        return ABSTAIN
    first, second = counts.topk(2).values.tolist()
    return best if binomtest(first, first + second, 0.5).pvalue <= alpha else ABSTAIN


@torch.no_grad()
def count_votes(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    n: int,
    sigma: float,
    *,
    num_classes: int,
    key: Sequence[int],
    parts: OomSafeBatches,
) -> Tensor:
    """Return how many of n noisy copies of an image (C,H,W) the model predicts as each class and, last, as none: K + 1, on CPU.

    key: identifies the random numbers: a seed, the sample, and the purpose of the draws.
    """
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=x.device)
    for noisy in noisy_copies(x, n, sigma, key=key, size=parts.size):
        for logits in parts.map(model, noisy):
            labels = predict_labels(logits)
            labels = torch.where(labels == NO_ANSWER, num_classes, labels)
            counts.scatter_add_(0, labels, torch.ones_like(labels))  # stays on the device, so nothing waits for it
    return counts.cpu()


def noisy_copies(x: Tensor, n: int, sigma: float, *, key: Sequence[int], size: int) -> Iterator[Tensor]:
    """Yield n noisy copies of an image (C,H,W), in batches of whole blocks of about `size` in total.

    Each batch is overwritten by the next.
    """
    many = max(1, size // BLOCK) * BLOCK
    batch = torch.empty(min(many, n), *x.shape, device=x.device, dtype=x.dtype)
    for start in range(0, n, many):
        rows = batch[: min(many, n - start)]
        for number, block in enumerate(rows.split(BLOCK), start // BLOCK):
            generator = torch.Generator(x.device).manual_seed(mix(*key, number))
            torch.randn(block.shape, generator=generator, out=block)
        yield rows.mul_(sigma).add_(x)


def certify_all(
    model: nn.Module,
    x: Tensor,
    index: Sequence[int],
    smoothing: Smoothing,
    *,
    num_classes: int,
    seed: int,
    parts: OomSafeBatches,
) -> Iterator[Certificate]:
    """Yield the certificate of each image (N,C,H,W in [0, 1], on the model's device).

    model: frozen, in the precision that is certified; returns logits N,K. index: N integers that identify the images; together
    with the seed they determine the draws.
    """
    for image, name in zip(x, index, strict=True):

        def votes(n: int, purpose: int, image: Tensor = image, name: int = name) -> Tensor:
            key = (seed, STREAM, name, purpose)
            return count_votes(model, image, n, smoothing.sigma, num_classes=num_classes, key=key, parts=parts)

        yield certify(votes, smoothing)


@torch.no_grad()
def check_fixed(model: nn.Module, x: Tensor, sigma: float) -> None:
    """Raise InputError if the logits of a noisy image differ between passes, or depend on the rest of the batch.

    The votes of such a model cannot be counted. x: N,C,H,W, of which the first image is used.
    """
    noisy = next(noisy_copies(x[0], PROBED, sigma, key=(STREAM,), size=PROBED)).to(dtype_of(model))
    first, again, turned = model(noisy.clone()), model(noisy.clone()), model(noisy.flip(0)).flip(0)
    alone = torch.cat([model(one.clone()) for one in noisy.split(1)])
    scale = first.abs().nan_to_num(0, 0, 0).amax().clamp_min(1e-12)
    if not _difference(first, again) <= REPEATED * scale:
        raise InputError(
            "the model is itself random: two passes of one image differ. Smoothing certifies the vote of a fixed model: "
            "remove its own noise"
        )
    if not max(_difference(first, turned), _difference(first, alone)) <= COMPANY * scale:
        raise InputError(
            "a sample's logits depend on the rest of the batch, so its draws cannot be counted: make the model treat each "
            "image independently"
        )


def _difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest absolute difference; equal infinities, and two NaN, count as equal."""
    same = (logits == others) | (logits.isnan() & others.isnan())
    return float((logits - others).abs().masked_fill(same, 0).nan_to_num(math.inf, math.inf).max())


def _top(counts: Tensor) -> int:
    """Return the class with the most votes, the first of several; NO_ANSWER if most draws gave no class."""
    best = int(counts.argmax())
    return NO_ANSWER if best == len(counts) - 1 else best
