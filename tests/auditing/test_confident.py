"""Confident learning, against an example worked out by hand and against cleanlab."""

import pytest
import torch

from robustcls.auditing.confident import find_label_errors


def noisy(seed: int, n: int = 2000, classes: int = 6, share: float = 0.1):
    """Return the probabilities of a fairly good model, labels of which a share is wrong, and a mask of the wrong ones."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (n,), generator=draws)
    logits = torch.randn(n, classes, generator=draws)
    logits[torch.arange(n), truth] += 3 + torch.arange(classes)[truth] * 0.3  # some classes get more confidence
    wrong = torch.rand(n, generator=draws) < share
    labels = torch.where(wrong, (truth + torch.randint(1, classes, (n,), generator=draws)) % classes, truth)
    return logits.softmax(1), labels, wrong


def test_a_case_by_hand():
    p = torch.tensor([
        [0.9, 0.1, 0.0],
        [0.7, 0.2, 0.1],
        [0.2, 0.8, 0.0],  # label 0, but as probably class 1 as images labelled 1
        [0.3, 0.6, 0.1],
        [0.5, 0.4, 0.1],  # label 1; class 0 is more probable, but below its threshold
        [0.2, 0.0, 0.8],
    ], dtype=torch.float64)  # fmt: skip
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    found = find_label_errors(p, y)
    assert torch.allclose(found.thresholds, torch.tensor([0.6, 0.5, 0.8], dtype=torch.float64))
    assert found.issue.tolist() == [False, False, True, False, False, False]
    assert found.guess.tolist() == [0, 0, 1, 1, 0, 2]
    assert torch.allclose(found.margin, torch.tensor([0.8, 0.5, -0.6, 0.3, -0.1, 0.6], dtype=torch.float64))
    assert found.joint.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found.ranked().tolist() == [2]


def test_a_label_that_is_most_probable_is_no_issue():
    """Class 1 never has a high probability, so its threshold is low and most images reach it."""
    p = torch.tensor([[0.55, 0.45], [0.95, 0.05], [0.9, 0.1], [0.8, 0.2]])
    found = find_label_errors(p, torch.tensor([0, 0, 0, 1]))
    assert found.issue.tolist() == [False, False, False, True]
    assert found.guess[0] == 1


def test_the_most_suspicious_come_first():
    p, y, _ = noisy(0)
    found = find_label_errors(p, y)
    order = found.ranked()
    assert len(order) == found.issue.sum() > 100
    others = p.double().scatter(1, y[:, None], 0).amax(1) / p.double().gather(1, y[:, None]).squeeze(1)
    assert torch.allclose(found.ratio, others.log())
    assert (others[order].diff() <= 0).all()
    assert (found.margin[order].diff() < 0).any(), "the order differs from an order by margin"


def test_a_probability_of_zero_is_ranked_first():
    p = torch.tensor([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.3, 0.6, 0.1]])
    found = find_label_errors(p, torch.tensor([0, 0, 0]))
    assert found.ratio.isfinite().all()
    assert found.ratio.argmax() == 1


@pytest.mark.parametrize("seed", range(3))
def test_finds_what_was_planted(seed):
    p, y, wrong = noisy(seed)
    issue = find_label_errors(p, y).issue
    assert (issue & wrong).sum() / wrong.sum() > 0.6  # images that reach no threshold are not reported
    assert (issue & wrong).sum() / issue.sum() > 0.75


def test_a_class_without_images_is_nobodys_guess():
    p, y, _ = noisy(1)
    keep = y != 2
    found = find_label_errors(p[keep], y[keep])
    assert found.thresholds[2].isnan()
    assert found.joint[:, 2].sum() == 0
    assert not (found.issue & (found.guess == 2)).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_agrees_with_cleanlab(seed, share):
    filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    p, y, _ = noisy(seed, n=5000, share=share)
    theirs = torch.from_numpy(
        filters.find_label_issues(y.numpy(), p.double().numpy(), filter_by="confident_learning", n_jobs=1)
    )
    ours = find_label_errors(p, y).issue
    both, either = (ours & theirs).sum().item(), (ours | theirs).sum().item()
    assert both / max(either, 1) > 0.95
    assert ours.any()


def weak(seed: int, n: int = 1000, classes: int = 4):
    """Return the probabilities of a poor model, for which several classes often reach their thresholds."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draws)
    logits = 0.7 * torch.randn(n, classes, generator=draws) + torch.tensor([1.5, 0.5, 0.0, -0.5])
    logits[torch.arange(n), labels] += 0.3
    return logits.softmax(1), labels


def by_the_overall_argmax(p, y):
    """Apply cleanlab's documented rule: if several classes reach their thresholds, take the most probable of all classes."""
    thresholds = torch.stack([p[y == k, k].mean() for k in range(p.shape[1])])
    reaches = p >= thresholds - 1e-6
    guess = p.argmax(1).where(reaches.sum(1) > 1, reaches.int().argmax(1))
    return reaches, reaches.any(1) & (guess != y) & (p.argmax(1) != y)


@pytest.mark.parametrize("seed", range(3))
def test_where_it_differs_from_cleanlab(seed):
    """They differ only where several classes reach their thresholds, the most probable class does not, and the label is the
    most probable of those that do."""
    p, y = weak(seed)
    p = p.double()
    reaches, theirs = by_the_overall_argmax(p, y)
    ours = find_label_errors(p, y).issue
    top = reaches.gather(1, p.argmax(1)[:, None]).squeeze(1)
    confident = p.where(reaches, -1).argmax(1)
    differ = (reaches.sum(1) > 1) & ~top & (confident == y)
    assert torch.equal(theirs ^ ours, differ)
    assert differ.sum() > 20
    assert not (ours & differ).any()
    filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    found = filters.find_label_issues(y.numpy(), p.numpy(), filter_by="confident_learning", n_jobs=1)
    assert torch.equal(torch.from_numpy(found), theirs)
