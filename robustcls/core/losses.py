"""Losses of each sample, in float32 whatever the logits' precision. Larger is better for the attacker."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.traits import traits

UNLABELLED = -100  # in place of a label, in training alone: nobody knows it


def cross_entropy(logits: Tensor, y: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Negative log-probability of the true class, 0 where it is UNLABELLED. logits: N,K; y: N, or probabilities N,K; returns N.

    label_smoothing: the share of the target that is spread over all classes (Szegedy et al. 2015, arXiv:1512.00567).
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing}: give 0 or more, below 1")
    return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=label_smoothing)


def labelled_mean(losses: Tensor, y: Tensor) -> Tensor:
    """The mean over the images that have a label of losses that are 0 for the others; 0 without any. losses: N; y: N, or
    probabilities N,K, of which each is a label."""
    mean = losses.mean()
    # Times 1 where all are labelled: then it is the mean, bit for bit, and no device is waited for.
    return mean if y.is_floating_point() else mean * (len(y) / (y != UNLABELLED).sum().clamp_min(1))


def probabilities(y: Tensor, num_classes: int) -> Tensor:
    """Labels N as probabilities N,K; those that are already come back as they are."""
    # F.one_hot would look at the largest label first, for which the host waits.
    return y if y.is_floating_point() else (y[:, None] == torch.arange(num_classes, device=y.device)).float()


def hard_labels(y: Tensor) -> Tensor:
    """Probabilities N,K as labels N; labels come back as they are."""
    return y.argmax(1) if y.is_floating_point() else y


@traits(reference=True)
def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(p_reference || p_logits), both given as logits N,K; returns N (TRADES, Zhang et al. 2019, arXiv:1901.08573)."""
    return F.kl_div(
        F.log_softmax(logits.float(), 1), F.log_softmax(reference.float(), 1), reduction="none", log_target=True
    ).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the true one: positive exactly where the sample is misclassified (ties count as right).

    Carlini and Wagner 2017, arXiv:1608.04644. Logits that name no class (`predict_labels`) are a wrong answer: inf.
    logits: N,K with K >= 2; y: N; returns N.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    gap = logits.scatter(1, y[:, None], -torch.inf).amax(1) - true
    return gap.masked_fill(gap.isnan(), torch.inf)


NO_ANSWER = -1  # in place of a label


def predict_labels(logits: Tensor) -> Tensor:
    """The class of the largest logit, NO_ANSWER where a logit is NaN or where several are the largest and infinite: N.

    argmax would call NaN a class. Logits of -inf are classes that the model rules out. logits: N,K.
    """
    top, label = logits.max(1)  # NaN counts as the largest
    tied = top.isinf() & ((logits == top[:, None]).sum(1) > 1)
    return label.masked_fill(top.isnan() | tied, NO_ANSWER)


# Misclassified counts only beyond a tie: a margin below this share of the two logits compared may flip by rounding.
ATTACK_TIE = 3e-5  # in an attack's early stop: with another batch size, or in a fused copy of the model
VERDICT_TIE = 3e-6  # in a verdict, which the fp32 model gives by itself: with the order of a sum


def most_probable(probabilities: Tensor, count: int = 3) -> list[tuple[int, float]]:
    """The most probable classes of one sample, K, each with its probability; none where the logits give none."""
    if probabilities.isnan().any():
        return []
    top = probabilities.topk(min(count, len(probabilities)))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def misclassified(logits: Tensor, y: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
    """Whether another class leads y by more than `tie`, a share of the logits compared, or none is named: N, bool.

    logits: N,K with K >= 2; y: N.
    """
    return margin(logits, y) > tie * tie_scale(logits, y)


def tie_scale(logits: Tensor, y: Tensor) -> Tensor:
    """The larger magnitude of the true logit and the largest other: what rounding of their difference goes with; N.

    Logits that are masked, with -1e9 or -inf, do not count; where one of the two is not finite nothing rounds: 0.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    scale = torch.maximum(logits.scatter(1, y[:, None], -torch.inf).amax(1).abs(), true.abs())
    return scale.nan_to_num(nan=0.0, posinf=0.0)


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """All classes but y, from the largest logit on: N,K-1."""
    others = logits.float().scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def prob_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The probability margin m = max p_k - p_y over the classes k but y, as log-odds log((1 + m) / (1 - m)): N.

    The loss of PMA (Xie et al. 2024, arXiv:2411.15210). Log-odds rise with m and have its gradient's direction, so that an
    attack which takes signs, or unit steps, and compares losses does the same with both; but where p_y rounds to 1, m and
    its gradient vanish in float32 and their log-odds do not. They are above 0 exactly where the sample is misclassified.
    With two classes they are the margin. logits: N,K with K >= 2; y: N.
    """
    logits, y = logits.float(), y[:, None]
    top = logits.scatter(1, y, -torch.inf).argmax(1, keepdim=True)  # of the wrong classes
    lead = (logits.gather(1, top) - logits.gather(1, y)).squeeze(1)
    twice = torch.full_like(logits[:, :1], math.log(2))
    # 1 + m is the probability of all classes but y with that of the top one twice, 1 - m that of all but it with p_y twice.
    above = logits.scatter(1, y, -torch.inf).scatter_add(1, top, twice).logsumexp(1)
    below = logits.scatter(1, top, -torch.inf).scatter_add(1, y, twice).logsumexp(1)
    # Of two near numbers the difference is lost, but 2m / (1 - m) = 2 (exp(lead) - 1) p_y / (1 - m) is exact there.
    ratio = 2 * lead.clamp(-1, 1).expm1() * (logits.gather(1, y).squeeze(1) - below).exp()
    return torch.where(lead.abs() < 1, ratio.log1p(), above - below)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over the gap between first and third logit, unmoved by a scale or a shift.

    Croce and Hein 2020, arXiv:2003.01690. With two classes any such ratio is constant, without a gradient: there it is
    the margin alone. Classes that are masked with -inf do not count. logits: N,K with K >= 2; y: N; returns N.
    """
    logits = logits.float()
    lead = margin(logits, y)
    if logits.shape[1] == 2:
        return lead
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    usable = third.isfinite() & first.isfinite()
    return lead / torch.where(usable, first - third + 1e-12, 1.0)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit over the spread of the largest four, or three where there are no more: N.

    The spread is the largest less the mean of the last two. With two classes the ratio is constant: the gap alone.
    Classes that are masked with -inf do not count.
    """
    logits = logits.float()
    if logits.shape[1] == 2:
        return gap(logits, y, target)
    ordered = logits.topk(min(4, logits.shape[1]), dim=1).values
    last = ordered[:, -2:]
    if logits.shape[1] > 3:
        last = torch.where(ordered[:, 3:].isfinite(), last, ordered[:, 1:3])
    usable = ordered[:, :3].isfinite().all(1)
    return gap(logits, y, target) / torch.where(usable, ordered[:, 0] - last.mean(1) + 1e-12, 1.0)


def gap(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit: N."""
    logits = logits.float()
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
