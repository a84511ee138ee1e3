"""The rules for selecting a subset of samples."""

import pytest
import torch

from robustcls.core.subset import first_proportional, in_turn, spaced, stratified_order


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_stratified_order_is_fair(seed):
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    order = stratified_order(labels, seed)
    assert sorted(order.tolist()) == list(range(100))
    for n in range(1, 101):
        counts = labels[order[:n]].bincount(minlength=3)
        assert (counts - torch.tensor([0.5, 0.3, 0.2]) * n).abs().max() <= 1


def test_spaced_samples_are_taken_from_all_over() -> None:
    alike = torch.zeros(10)
    assert spaced(alike, 4).tolist() == [0, 2, 5, 7]
    assert spaced(alike[:3], 8).tolist() == [0, 1, 2]
    assert spaced(alike[:5], 0).tolist() == spaced(alike[:0], 5).tolist() == []
    for labels in (torch.arange(200) % 10, torch.arange(200) // 20):
        assert labels[spaced(labels, 50)].bincount().tolist() == [5] * 10


def test_classes_take_turns_until_they_run_out() -> None:
    labels = torch.tensor([2, 0, 0, 2, 0, 1, 0])
    assert in_turn(labels).tolist() == [0, 1, 5, 2, 3, 4, 6]


def test_every_rule_takes_the_samples_that_it_took_in_published_evaluations() -> None:
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 0, 0, 2, 0, 1, 0])
    assert stratified_order(labels, 0).tolist() == [0, 5, 9, 8, 7, 4, 10, 3, 2, 11, 1, 6]
    assert first_proportional(labels, 3).tolist() == [0, 1, 3]
    assert spaced(labels, 5).tolist() == [0, 1, 4, 7, 10]
