"""Targets by linearised distance, against exact distances; which samples get a run, and how many."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks.malt import malt, nearest_classes
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import Walled, linear, trained_on_digits
from tests.helpers.seeds import seeded

THREAT = ThreatModel("linf", 0.04)
LEFT = torch.tensor([0.1, 0.2, 0.4, 0.9])  # share of the way to an error that is left after every run


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_the_order_on_a_linear_model_is_that_of_the_exact_distance(norm, dual):
    net = linear(6, 3, 4, 4)
    x = torch.rand(50, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        logits = net(x)
    y, weight = logits.argmax(1), net[1].weight.detach()
    distance = torch.full((50, 6), torch.inf)
    for row in range(50):
        for other in range(6):
            if other != y[row]:
                gap = logits[row, y[row]] - logits[row, other]
                distance[row, other] = gap / torch.linalg.vector_norm(weight[other] - weight[y[row]], dual)
    found, _ = nearest_classes(net, x, y, ThreatModel(norm, 0.1))
    assert torch.equal(found, distance.argsort(1)[:, :5])
    by_logits = logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :5]
    assert (found != by_logits).any(), "else the order by logits would pass, too"


def test_its_first_target_breaks_more_than_that_of_the_largest_logit():
    net, x, y = trained_on_digits(300)
    left = {
        spec: (net(robustcls.attack(net, x, y, "linf:0.12", f"{spec}(steps=20, targets=1)")).argmax(1) == y).sum()
        for spec in ("apgd_t", "malt")
    }
    assert left["malt"] < left["apgd_t"]


def runs(rows: slice = slice(None), **given) -> list[int]:
    """Return the number of one-step runs that each sample of LEFT got."""
    x = torch.full((len(LEFT), 1, 1, 2), 0.5)
    x[:, 0, 0, 0] = LEFT
    start = x.clone()
    start[:, 0, 0, 1] += THREAT.eps
    model = Walled(THREAT.eps, classes=4)
    malt(model, x[rows], torch.zeros(len(x[rows])).long(), THREAT, steps=1, start=start[rows], **given)
    met = torch.cat(model.met)
    # Unless all samples are attacked, two passes measure how close the start is to an error. One pass looks at the clean
    # image, one ranks the targets, and each run takes three.
    looks = 2 if given.get("within", 1) < 1 else 0
    return [max(int(((met - value).abs() < 0.01).sum()) - looks - 2, 0) // 3 for value in LEFT[rows]]


def test_all_samples_get_all_targets_and_restarts():
    assert runs(targets=2, restarts=2) == [4] * 4
    assert runs(targets=9) == [3] * 4, "there are only three wrong classes"
    assert runs(targets=9, skip=1) == [2] * 4


def test_within_decides_which_samples_get_further_targets_and_restarts():
    assert runs(targets=1, within=0.5) == [1, 1, 1, 0]
    assert runs(targets=2, restarts=3, within=0.5) == [6, 4, 2, 0], "at most 0.5, 0.25, 0.125 left"


def test_no_sample_decides_for_another():
    each = [runs(slice(i, i + 1), targets=2, restarts=3, within=0.5)[0] for i in range(4)]
    assert each == [6, 4, 2, 0]


@pytest.mark.parametrize("option", [{"targets": 0}, {"restarts": 0}, {"skip": -1}, {"within": 0.0}, {"within": 1.5}])
def test_what_cannot_be_is_refused(option):
    with pytest.raises(InputError, match="give 1 or more, skip 0 or more"):
        malt(Walled(THREAT.eps, classes=4), torch.rand(1, 1, 1, 2), torch.zeros(1).long(), THREAT, **option)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("attack", ["malt(steps=20, targets=1)", "apgd_pm(steps=20)"])
def test_scaled_logits_break_the_same(attack, scale):
    class Scaled(nn.Module):
        def forward(self, x):
            return net(x) * scale

    net, x, y = trained_on_digits(200)
    left = [
        int((model(robustcls.attack(model, x, y, "linf:0.12", attack)).argmax(1) == y).sum())
        for model in (net, Scaled())
    ]
    assert 0.1 * len(y) < left[0] < 0.9 * len(y)
    # malt's ratio does not depend on the scale; the probability margin turns into the logit margin, which is a little weaker.
    assert abs(left[1] - left[0]) <= (2 if attack.startswith("malt") else 0.1 * len(y))
