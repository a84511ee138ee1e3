"""Randomised smoothing (Cohen, Rosenfeld and Kolter 2019, arXiv:1902.02918): certified l2 radii of a vote under noise.

    g(x) = argmax_c P(f(x + noise) = c),  noise ~ N(0, sigma^2 I) on pixels in [0, 1], not clamped, before normalisation

What differs from the paper's code: the counted draws are of a stream of their own for each sample, in blocks, so that neither
batch size nor order changes a count; draws whose logits name no class (NaN) vote for none.
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
BLOCK = 100  # draws of a sample that one generator makes
STREAM = mix(*b"smoothing")  # names the random numbers
SELECT, COUNT, VOTE = range(3)  # what draws are for
PROBED = 4  # draws on which a model is looked at
REPEATED, COMPANY = 1e-4, 1e-3  # of the largest logit, by which those of a fixed model may differ


@dataclass(frozen=True)
class Smoothing:
    """How a model is smoothed and certified. Raises InputError for what cannot certify anything.

    sigma: of the noise. n0: draws that choose the candidate. n: draws that count it. alpha: the probability that a
    certificate is false.
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
            raise InputError(f"alpha={self.alpha!r:.40} is no number: give a probability of error, such as 0.001")
        if not 0 < self.alpha < 0.5:
            raise InputError(
                f"alpha={self.alpha:g} is no probability of error: give a number above 0 and below 0.5, such as 0.001"
            )
        if self.n0 < 1:
            raise InputError(f"{self.n0} draws choose no class: take 1 or more, such as 100")
        if self.n < (least := least_draws(self.alpha)):
            raise InputError(
                f"{self.n} draws cannot certify anything at alpha {self.alpha:g}, even if all give one class: take {least} or "
                "more, such as 1000"
            )

    @property
    def largest(self) -> float:
        """The radius of a sample all of whose draws give one class: no certificate is larger."""
        return smoothed_radius(self.n, self.n, self.alpha, self.sigma)


def least_draws(alpha: float) -> int:
    """The fewest draws that can certify: if all n give one class, the lower bound is alpha^(1/n), which must exceed 1/2."""
    n = max(1, math.floor(-math.log2(alpha)))
    return next(many for many in range(n, n + 3) if alpha ** (1 / many) > 0.5)


@dataclass(frozen=True)
class Certificate:
    """Of one sample. predicted: the class, or ABSTAIN. radius: within which it is proven; 0 where there is none."""

    predicted: int
    radius: float
    candidate: int  # that the first draws named; NO_ANSWER where most named no class
    count: int  # of the n draws, for the candidate
    voted: int  # the class that most of the n draws gave


def certify(votes: Callable[..., Tensor], smoothing: Smoothing) -> Certificate:
    """CERTIFY of the paper. votes: `votes(n, purpose)`, how many of n draws gave each of K classes, and last none: K + 1."""
    candidate = _top(votes(smoothing.n0, SELECT))
    counts = votes(smoothing.n, COUNT)
    voted, count = _top(counts), int(counts[candidate]) if candidate != NO_ANSWER else 0
    radius = smoothed_radius(count, smoothing.n, smoothing.alpha, smoothing.sigma)
    return Certificate(candidate if radius > 0 else ABSTAIN, radius, candidate, count, voted)


def predict(votes: Callable[..., Tensor], n: int, alpha: float) -> int:
    """PREDICT of the paper: the class of most draws, the smoothed classifier's with confidence 1 - alpha, or ABSTAIN.

    By a two-sided binomial test of the first class against the second.
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
    """How many of n noisy copies of one image (C,H,W) the model gives each class, and last how many none: K + 1, on the CPU.

    key: names the random numbers: a seed, the sample, what the draws are for.
    """
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=x.device)
    for noisy in noisy_copies(x, n, sigma, key=key, size=parts.size):
        for logits in parts.map(model, noisy):
            labels = predict_labels(logits)
            labels = torch.where(labels == NO_ANSWER, num_classes, labels)
            counts.scatter_add_(0, labels, torch.ones_like(labels))  # without waiting for the device
    return counts.cpu()


def noisy_copies(x: Tensor, n: int, sigma: float, *, key: Sequence[int], size: int) -> Iterator[Tensor]:
    """n copies of an image (C,H,W) with noise, as batches of whole blocks, of about `size`. What is in a batch is overwritten
    by the next."""
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
    """The certificate of each image (N,C,H,W in [0, 1], on the model's device), one after another.

    model: frozen, in the form and precision that is certified; logits N,K. index: N whole numbers that name the images, on
    which with the seed their draws depend.
    """
    for image, name in zip(x, index, strict=True):

        def votes(n: int, purpose: int, image: Tensor = image, name: int = name) -> Tensor:
            key = (seed, STREAM, name, purpose)
            return count_votes(model, image, n, smoothing.sigma, num_classes=num_classes, key=key, parts=parts)

        yield certify(votes, smoothing)


@torch.no_grad()
def check_fixed(model: nn.Module, x: Tensor, sigma: float) -> None:
    """Raises InputError where logits of the same noisy image differ from pass to pass, or with its company: such a model has no
    answer that could be counted. x: N,C,H,W, of which the first is looked at."""
    noisy = next(noisy_copies(x[0], PROBED, sigma, key=(STREAM,), size=PROBED)).to(dtype_of(model))
    first, again, turned = model(noisy.clone()), model(noisy.clone()), model(noisy.flip(0)).flip(0)
    alone = torch.cat([model(one.clone()) for one in noisy.split(1)])
    scale = first.abs().nan_to_num(0, 0, 0).amax().clamp_min(1e-12)
    if not _difference(first, again) <= REPEATED * scale:
        raise InputError(
            "the model is itself random: two passes of one image differ. Smoothing certifies the vote of a fixed model: "
            "take its own noise out"
        )
    if not max(_difference(first, turned), _difference(first, alone)) <= COMPANY * scale:
        raise InputError(
            "a sample's logits depend on the batch around it, so that no draw holds by itself: make the model see one image "
            "alone"
        )


def _difference(logits: Tensor, others: Tensor) -> float:
    """The largest, where equal infinities and two NaN do not differ."""
    same = (logits == others) | (logits.isnan() & others.isnan())
    return float((logits - others).abs().masked_fill(same, 0).nan_to_num(math.inf, math.inf).max())


def _top(counts: Tensor) -> int:
    """The class of most votes, the first of several; NO_ANSWER where most draws named none."""
    best = int(counts.argmax())
    return NO_ANSWER if best == len(counts) - 1 else best
