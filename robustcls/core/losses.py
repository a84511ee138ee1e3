"""Losses per sample, computed in float32 for logits of any precision. Attacks maximise them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.traits import traits

UNLABELLED = -100  # the label of an image without a label; in training only


def cross_entropy(logits: Tensor, y: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy per sample, 0 where y is UNLABELLED: N. logits: N,K; y: N, or probabilities N,K.

    label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2015, arXiv:1512.00567).
    """
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing={label_smoothing}: give 0 or more, below 1")
    return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=label_smoothing)


def labelled_mean(losses: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss over the labelled images; 0 if there are none.

    losses: N, 0 for images without a label. y: N, or probabilities N,K, which all count as labels.
    """
    mean = losses.mean()
    # If all are labelled, the factor is exactly 1. Computing it on the device avoids waiting for the device.
    return mean if y.is_floating_point() else mean * (len(y) / (y != UNLABELLED).sum().clamp_min(1))


def probabilities(y: Tensor, num_classes: int) -> Tensor:
    """Return labels N as probabilities N,K. Probabilities are returned unchanged."""
    # F.one_hot reads the largest label first, so the host would wait for the device.
    return y if y.is_floating_point() else (y[:, None] == torch.arange(num_classes, device=y.device)).float()


def hard_labels(y: Tensor) -> Tensor:
    """Return probabilities N,K as labels N. Labels are returned unchanged."""
    return y.argmax(1) if y.is_floating_point() else y


@traits(reference=True)
def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(p_reference || p_logits) for two sets of logits N,K: N (TRADES, Zhang et al. 2019, arXiv:1901.08573)."""
    return F.kl_div(
        F.log_softmax(logits.float(), 1), F.log_softmax(reference.float(), 1), reduction="none", log_target=True
    ).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the true logit: N. It is positive exactly where the sample is misclassified.

    Ties count as correct. If the logits predict no class (see `predict_labels`), the margin is inf, which counts as
    misclassified. Source: Carlini and Wagner 2017, arXiv:1608.04644. logits: N,K with K >= 2; y: N.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    gap = logits.scatter(1, y[:, None], -torch.inf).amax(1) - true
    return gap.masked_fill(gap.isnan(), torch.inf)


NO_ANSWER = -1  # the predicted label if no class is predicted


def predict_labels(logits: Tensor) -> Tensor:
    """Return the class of the largest logit: N. It is NO_ANSWER if a logit is NaN, or if several logits are the largest and
    infinite.

    argmax would return the class of a NaN. A logit of -inf means that the model rules out the class. logits: N,K.
    """
    top, label = logits.max(1)  # NaN counts as the largest
    tied = top.isinf() & ((logits == top[:, None]).sum(1) > 1)
    return label.masked_fill(top.isnan() | tied, NO_ANSWER)


# A sample counts as misclassified only if the margin exceeds this share of the two logits compared, because rounding may
# flip the sign of smaller margins.
ATTACK_TIE = (
    3e-5  # for early stopping in attacks: rounding differs with the batch size and in a fused copy of the model
)
VERDICT_TIE = 3e-6  # for verdicts, which come from the fp32 model: rounding differs only with the order of a sum


def most_probable(probabilities: Tensor, count: int = 3) -> list[tuple[int, float]]:
    """Return the most probable classes of one sample with their probabilities (input: K); none if they contain NaN."""
    if probabilities.isnan().any():
        return []
    top = probabilities.topk(min(count, len(probabilities)))
    return list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def misclassified(logits: Tensor, y: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
    """Whether another class leads the label y by more than `tie`, a share of the logits compared, or no class is predicted.

    logits: N,K with K >= 2; y: N; returns N, bool.
    """
    return margin(logits, y) > tie * tie_scale(logits, y)


def tie_scale(logits: Tensor, y: Tensor) -> Tensor:
    """Return the larger magnitude of the true logit and the largest other logit, to which rounding errors are proportional: N.

    Masked logits, such as -1e9 or -inf, do not matter. If one of the two logits is not finite, the scale is 0.
    """
    logits = logits.float()
    true = logits.gather(1, y[:, None]).squeeze(1)
    scale = torch.maximum(logits.scatter(1, y[:, None], -torch.inf).amax(1).abs(), true.abs())
    return scale.nan_to_num(nan=0.0, posinf=0.0)


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """Return all classes except y, sorted by descending logit: N,K-1."""
    others = logits.float().scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def prob_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the probability margin m = max p_k - p_y over classes k other than y, as log-odds log((1 + m) / (1 - m)): N.

    This is the loss of PMA (Xie et al. 2024, arXiv:2411.15210). The log-odds increase with m and their gradient has the same
    direction, so an attack with sign steps or unit steps that compares losses behaves the same with both. But where p_y
    rounds to 1, m and its gradient vanish in float32 and the log-odds do not. The log-odds are positive exactly where the
    sample is misclassified. With two classes they equal the margin. logits: N,K with K >= 2; y: N.
    """
    logits, y = logits.float(), y[:, None]
    top = logits.scatter(1, y, -torch.inf).argmax(1, keepdim=True)  # the most probable wrong class
    lead = (logits.gather(1, top) - logits.gather(1, y)).squeeze(1)
    twice = torch.full_like(logits[:, :1], math.log(2))
    # 1 + m = sum of p over all classes except y, plus p_top; 1 - m = sum of p over all classes except top, plus p_y.
    above = logits.scatter(1, y, -torch.inf).scatter_add(1, top, twice).logsumexp(1)
    below = logits.scatter(1, top, -torch.inf).scatter_add(1, y, twice).logsumexp(1)
    # For a small lead, above - below suffers from cancellation, but 2m / (1 - m) = 2 (exp(lead) - 1) p_y / (1 - m) is exact.
    ratio = 2 * lead.clamp(-1, 1).expm1() * (logits.gather(1, y).squeeze(1) - below).exp()
    return torch.where(lead.abs() < 1, ratio.log1p(), above - below)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference-of-logits ratio: the margin divided by the gap between the first and the third logit: N.

    It is invariant to scaling and shifting the logits (Croce and Hein 2020, arXiv:2003.01690). With two classes the ratio
    would be constant and have no gradient, so the margin itself is returned. Classes masked with -inf are ignored.
    logits: N,K with K >= 2; y: N.
    """
    logits = logits.float()
    lead = margin(logits, y)
    if logits.shape[1] == 2:
        return lead
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    usable = third.isfinite() & first.isfinite()
    return lead / torch.where(usable, first - third + 1e-12, 1.0)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the target logit minus the true logit, divided by the spread of the largest four logits (or three): N.

    The spread is the largest logit minus the mean of the last two. With two classes the ratio would be constant, so the gap
    itself is returned. Classes masked with -inf are ignored.
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
    """Return the target logit minus the true logit: N."""
    logits = logits.float()
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
