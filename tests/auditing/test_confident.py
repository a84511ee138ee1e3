"""Confident learning, against a case written out by hand and against cleanlab."""

import pytest
import torch

from robustcls.auditing.confident import find_label_errors


def noisy(seed: int, n: int = 2000, classes: int = 6, share: float = 0.1):
    """Probabilities of a fair model, and labels of which a share is wrong."""
    draws = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (n,), generator=draws)
    logits = torch.randn(n, classes, generator=draws)
    logits[torch.arange(n), truth] += 3 + torch.arange(classes)[truth] * 0.3  # classes of unlike confidence
    wrong = torch.rand(n, generator=draws) < share
    labels = torch.where(wrong, (truth + torch.randint(1, classes, (n,), generator=draws)) % classes, truth)
    return logits.softmax(1), labels, wrong


def test_a_case_by_hand():
    p = torch.tensor([
        [0.9, 0.1, 0.0],
        [0.7, 0.2, 0.1],
        [0.2, 0.8, 0.0],  # label 0, but as surely 1 as the ones that are
        [0.3, 0.6, 0.1],
        [0.5, 0.4, 0.1],  # label 1; most probably 0, which is below the threshold of 0: not confident
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
    """Class 1 is never probable, so that its threshold is low and most images reach it."""
    p = torch.tensor([[0.55, 0.45], [0.95, 0.05], [0.9, 0.1], [0.8, 0.2]])
    found = find_label_errors(p, torch.tensor([0, 0, 0, 1]))
    assert found.issue.tolist() == [False, False, False, True]
    assert found.guess[0] == 1


def test_the_most_suspicious_come_first():
    p, y, _ = noisy(0)
    found = find_label_errors(p, y)
    order = found.ranked()
    assert len(order) == found.issue.sum() > 100
    assert (found.margin[order].diff() >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_finds_what_was_planted(seed):
    p, y, wrong = noisy(seed)
    issue = find_label_errors(p, y).issue
    assert (issue & wrong).sum() / wrong.sum() > 0.6  # those that reach no threshold are left alone
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
