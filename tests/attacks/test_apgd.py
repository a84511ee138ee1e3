"""Targeted Auto-PGD: which samples get further restarts."""

import pytest
import torch

from robustcls.attacks.apgd_t import apgd_t
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import Walled

THREAT = ThreatModel("linf", 0.04)
LEFT = torch.tensor([0.1, 0.3, 0.6, 0.9])  # share of the way to an error that is left after every run


def runs(restarts: int, rows: slice = slice(None), **given) -> list[int]:
    """Return the number of runs that each sample of LEFT got, with one target and one step."""
    x = torch.full((len(LEFT), 1, 1, 2), 0.5)
    x[:, 0, 0, 0] = LEFT
    model, x = Walled(THREAT.eps), x[rows]
    apgd_t(model, x, torch.zeros(len(x)).long(), THREAT, steps=1, targets=1, restarts=restarts, **given)
    met = torch.cat(model.met)
    # The clean image takes one forward pass, and each run takes three.
    return [(int(((met - value).abs() < 0.01).sum()) - 1) // 3 for value in LEFT[rows]]


def test_all_samples_get_all_restarts_unless_closest_says_otherwise():
    assert runs(5) == [5] * 4


@pytest.mark.parametrize("restarts", [1, 2])
def test_the_first_two_restarts_run_on_all_samples(restarts):
    assert runs(restarts, closest=0.3) == [restarts] * 4


def test_a_later_restart_meets_those_with_little_of_the_way_left():
    """The share that may be left shrinks: 0.5 for the third run, then 0.35, 0.25, 0.18, 0.125, and 0.09 for the eighth."""
    assert runs(8, closest=0.5) == [7, 4, 2, 2]


def test_no_sample_decides_for_another():
    assert [runs(8, slice(i, i + 1), closest=0.5) for i in range(4)] == [[7], [4], [2], [2]]
