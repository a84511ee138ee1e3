import math

import pytest
import torch

from robustcls.core.losses import (
    NO_ANSWER,
    cross_entropy,
    dlr,
    kl,
    margin,
    predict_labels,
    prob_margin,
    targeted_dlr,
    tie_scale,
)

CLASSES = (2, 3, 4, 10)


@pytest.fixture(params=CLASSES)
def case(request):
    draw = torch.Generator().manual_seed(request.param)
    logits = 3 * torch.randn(64, request.param, generator=draw)
    y = torch.randint(0, request.param, (64,), generator=draw)
    return logits, y


def by_hand(logits, y, formula):
    return torch.tensor([formula(row, label) for row, label in zip(logits.tolist(), y.tolist(), strict=True)])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_cross_entropy(case):
    logits, y = case
    probabilities = logits.double().softmax(1)[torch.arange(64), y]
    close(cross_entropy(logits, y), -probabilities.log().float())


def test_kl(case):
    logits, y = case
    reference = logits.roll(1, 0)
    p, q = reference.double().softmax(1), logits.double().softmax(1)
    close(kl(logits, reference), (p * (p / q).log()).sum(1).float())
    close(kl(logits, logits), torch.zeros(64))
    assert (kl(logits, reference) > 0).all()


def test_margin(case):
    logits, y = case
    close(margin(logits, y), by_hand(logits, y, lambda z, k: max(z[:k] + z[k + 1 :]) - z[k]))
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_a_tie_counts_as_right():
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    assert margin(logits, torch.tensor([1, 2])).tolist() == [0.0, 0.0]


def test_dlr(case):
    logits, y = case

    def formula(z, k):
        ordered = sorted(z, reverse=True)
        gap = max(z[:k] + z[k + 1 :]) - z[k]
        return gap if len(z) == 2 else gap / (ordered[0] - ordered[2])

    close(dlr(logits, y), by_hand(logits, y, formula))
    if logits.shape[1] > 2:
        torch.testing.assert_close(dlr(100 * logits + 7, y), dlr(logits, y), rtol=1e-3, atol=1e-3)
        assert dlr(logits, logits.argmax(1)).abs().max() <= 1 + 1e-6


def probability_gap(logits, y):
    """Return the formula of the paper: the largest probability of a wrong class minus that of the label."""
    p = logits.double().softmax(1)
    return p.scatter(1, y[:, None], -1).amax(1) - p.gather(1, y[:, None]).squeeze(1)


def test_prob_margin_is_the_log_odds_of_the_gap_in_probability(case):
    logits, y = case
    gap = probability_gap(logits, y)
    expected = torch.log((1 + gap) / (1 - gap))
    torch.testing.assert_close(prob_margin(logits, y).double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(prob_margin(logits, y) > 0, margin(logits, y) > 0)


def test_the_gradient_of_prob_margin_has_the_direction_of_the_gaps(case):
    logits, y = case
    directions = []
    for loss in (prob_margin, probability_gap):
        given = logits.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(given, y).sum(), given)
        directions.append(torch.nn.functional.normalize(grad.double(), dim=1))
    torch.testing.assert_close(*directions, rtol=1e-3, atol=1e-4)


def test_prob_margin_by_hand():
    """With probabilities 0.5, 0.3 and 0.2, the first class leads by 0.2, so its loss is log((1 - 0.2) / (1 + 0.2))."""
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert prob_margin(logits, torch.tensor([0])).item() == pytest.approx(math.log(0.8 / 1.2), abs=1e-6)
    assert prob_margin(logits, torch.tensor([1])).item() == pytest.approx(math.log(1.2 / 0.8), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_prob_margin_keeps_its_gradient_under_any_scale_of_the_logits(case, scale):
    """At a large scale, the gap between the probabilities itself has no gradient, because p_y rounds to 1."""
    logits, y = (case[0] * scale).requires_grad_(), case[0].argmax(1)
    (grad,) = torch.autograd.grad(prob_margin(logits, y).sum(), logits)
    assert (grad.abs().amax(1) > 0.1).all()
    better = logits.detach().clone()
    better[torch.arange(len(y)), y] -= 1e-3 * scale
    assert (prob_margin(better, y) > prob_margin(logits, y)).all(), "a small step increases the loss"
    if scale > 1:
        (lost,) = torch.autograd.grad(probability_gap(logits, y).float().sum(), logits)
        assert (lost.abs().amax(1) == 0).float().mean() > 0.5


def test_targeted_dlr(case):
    logits, y = case
    num_classes = logits.shape[1]
    for shift in range(1, num_classes):
        target = (y + shift) % num_classes
        expected = []
        for z, k, t in zip(logits.tolist(), y.tolist(), target.tolist(), strict=True):
            ordered = sorted(z, reverse=True)
            spread = {2: 1, 3: ordered[0] - sum(ordered[1:]) / 2}.get(
                num_classes, ordered[0] - sum(ordered[2:4]) / 2 if num_classes > 3 else 0
            )
            expected.append((z[t] - z[k]) / spread)
        close(targeted_dlr(logits, y, target), torch.tensor(expected))


def test_no_ratio_is_constant(case):
    """With few classes, the formulas of the papers are constant, so attacks would not move."""
    logits, _ = case
    y = logits.argmax(1)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(dlr(logits, y).sum(), logits)
    assert (grad.abs().amax(1) > 1e-4).all()
    for rank in range(1, logits.shape[1]):
        target = logits.argsort(1, descending=True)[:, rank]
        (grad,) = torch.autograd.grad(targeted_dlr(logits, y, target).sum(), logits)
        assert (grad.abs().amax(1) > 1e-4).all(), rank


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_are_float32_whatever_the_logits(case, dtype):
    logits, y = case
    low = logits.to(dtype)
    for loss in (cross_entropy, margin, dlr):
        assert loss(low, y).dtype == torch.float32
        assert torch.equal(loss(low, y), loss(low.float(), y))
        assert loss(low, y).shape == (64,)
    assert kl(low, low).dtype == torch.float32
    assert targeted_dlr(low, y, y).dtype == torch.float32


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        ([1, 3, 2], 1), ([3, 3, 2], 0), ([-INF, 1, -INF], 1), ([1, INF, 2], 1), ([-1e9, 1, 2], 2),
        ([NAN, 1, 2], NO_ANSWER), ([1, 2, NAN], NO_ANSWER), ([NAN] * 3, NO_ANSWER), ([INF, INF, 2], NO_ANSWER),
        ([-INF] * 3, NO_ANSWER),
    ],
)  # fmt: skip
def test_only_numbers_name_a_class(logits, label):
    """If a row of logits names no class, every label counts as wrong, with an infinite margin."""
    row = torch.tensor([logits])
    assert predict_labels(row).item() == label
    for y in range(3):
        gap = margin(row, torch.tensor([y])).item()
        assert (gap > 0) == (label == NO_ANSWER or (label != y and logits[y] != max(logits)))
        if label == NO_ANSWER:
            assert gap == INF


def test_infinite_logits_do_not_blur_a_margin():
    row = torch.tensor([[1.0, INF, 2.0], [1.0, -INF, 2.0]])
    assert tie_scale(row, torch.tensor([0, 1])).tolist() == [0, 0]
    assert margin(row, torch.tensor([0, 1])).tolist() == [INF, INF]


@pytest.mark.parametrize("known", [2, 3, 4, 7])
def test_classes_masked_with_infinity_change_no_ratio(known):
    """They do not change its gradient either, so attacks run as if the model did not have these classes."""
    draw = torch.Generator().manual_seed(known)
    logits, y = torch.randn(32, known, generator=draw), torch.randint(0, known, (32,), generator=draw)
    target = (y + 1) % known
    for loss in (lambda logits: dlr(logits, y), lambda logits: targeted_dlr(logits, y, target)):
        plain = logits.clone().requires_grad_()
        masked = torch.cat([plain, torch.full((32, 3), -INF)], 1)
        expected, found = loss(plain), loss(masked)
        close(found, expected)
        close(torch.autograd.grad(found.sum(), plain)[0], torch.autograd.grad(expected.sum(), plain)[0])
