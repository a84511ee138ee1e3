"""Minimum perturbations, against the closed form of linear models, and messages where none is found."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.core.errors import InputError
from robustcls.core.subset import spaced
from robustcls.core.threat import BALL, NORMS, ThreatModel
from robustcls.evaluation.measures.minimum import measure as minimum
from robustcls.evaluation.measures.minimum.measure import from_attacks as minimum_of_cascade
from robustcls.evaluation.measures.minimum.measure import measure as measure_minimum
from robustcls.evaluation.measures.minimum.measure import quartiles
from robustcls.reporting import render
from tests.helpers.eval_models import Evaluated, Masked, evaluated, make_batch, make_net


def linear(num_classes: int = 3) -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, num_classes))
    with torch.no_grad():
        net[1].bias.copy_(-0.5 * net[1].weight.sum(1))  # the boundaries meet in the middle of the box
    return net.eval()


def judged_by(model: nn.Module, x: Tensor, y: Tensor, attacks=("fgsm",), eps: float = 0.02) -> Evaluated:
    return evaluated(model, x, y, ThreatModel("linf", eps), attacks, precision="fp32", batch_size=16)


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Evaluated]:
    net = linear()
    x = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    return net, judged_by(net, x, y)


def nearest(net: nn.Sequential, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Return the distance to the nearest hyperplane between the label and another class, inside the box; exact for two."""
    weight, bias = net[1].weight.detach(), net[1].bias.detach()
    flat, threat = x.flatten(1), ThreatModel(norm, 1.0)
    ways = []
    for other in range(len(bias)):
        delta = to_hyperplane(norm, flat, weight[other] - weight[y], bias[y] - bias[other])
        size = threat.distance((flat + delta).view_as(x), x)
        ways.append(size.where(y != other, torch.inf))
    return torch.stack(ways).amin(0)


def test_linear_models_have_a_closed_form_in_every_norm(case):
    net, judged = case
    wrong = judged.examples.clean != judged.y
    found = measure_minimum(*judged.on(net), n=100, batch_size=16, seed=0)
    assert [record.norm for record in found] == list(NORMS)
    for record in found:
        distance = torch.tensor(record.distance)
        exact = nearest(net, judged.x, judged.y, record.norm).where(~wrong, 0)
        assert (distance[wrong] == 0).all()
        assert (distance >= exact * (1 - 1e-3) - 1e-6).all(), "nothing is nearer than the optimum"
        assert (distance <= exact * 1.02 + (1 if record.norm == "l0" else 1e-3)).all()
        assert record.median == pytest.approx(distance.quantile(0.5).item())
        assert record.censored == 0
        assert record.error == ""
        assert record.index == [sample.index for sample in judged.evaluation.samples]
        assert record.attack.startswith("sigma_zero(" if record.norm == "l0" else "fab_t(")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_samples_are_spread(case):
    net, judged = case
    one, two = (measure_minimum(*judged.on(net), n=10, batch_size=4, seed=1) for _ in range(2))
    assert one == two
    assert one[0].index == spaced(judged.y, 10).tolist()
    assert "10 of the 40 samples" in one[0].rule


@pytest.mark.slow
def test_a_model_without_another_class_is_censored():
    """The model always predicts class 0, so samples of class 0 have no example, and quartiles beyond the others are unknown."""
    x, y = make_batch()
    net = Masked(make_net(), after=lambda logits: logits * 0 + torch.tensor([1.0, 0, 0, 0]))
    record = measure_minimum(*judged_by(net, x, y).on(net), n=60, batch_size=16, seed=0)[0]
    same = y == 0
    assert record.censored == int(same.sum()) > 0
    assert [value is None for value in record.distance] == same.tolist()
    assert all(value == 0 for value in record.distance if value is not None)
    assert record.q3 is None or record.censored < 15


def test_an_upper_bound_never_worse_than_the_example_of_the_evaluation(monkeypatch):
    """The attack of the measure finds nothing, so the distances come from the examples of the evaluation."""
    monkeypatch.setattr(minimum, "ATTACKS", {norm: ["tests.helpers.eval_models:idle"] for norm in NORMS})
    x, y = make_batch()
    net = make_net()
    judged = judged_by(net, x, y, ["pgd(steps=5)"], eps=0.05)
    record = measure_minimum(*judged.on(net), n=60, batch_size=16, seed=0)[0]
    broken = judged.examples.breaker >= 0
    standing = judged.examples.robust
    assert broken.any()
    assert record.censored == int(standing.sum())
    for position in broken.nonzero().flatten().tolist():
        assert record.distance[position] <= judged.examples.distance[position].item() + 1e-6


def test_an_attack_that_fails_is_recorded_and_the_others_go_on(case, monkeypatch):
    net, judged = case
    monkeypatch.setattr(minimum, "ATTACKS", {norm: [f"{__name__}:only_l2"] for norm in NORMS})
    found = {record.norm: record for record in measure_minimum(*judged.on(net), n=40, batch_size=16, seed=0)}
    assert found["linf"].error == "ValueError: l2 alone"
    assert found["linf"].distance == []
    assert found["linf"].median is None
    assert found["l2"].error == ""
    assert len(found["l2"].distance) == 40


@pytest.mark.slow
def test_where_one_of_several_attacks_fails_the_others_decide(case, monkeypatch):
    net, judged = case
    failing = f"{__name__}:only_l2"
    alone = measure_minimum(*judged.on(net), n=40, batch_size=16, seed=0)[0]
    monkeypatch.setattr(minimum, "ATTACKS", minimum.ATTACKS | {"linf": [*minimum.ATTACKS["linf"], failing]})
    record = measure_minimum(*judged.on(net), n=40, batch_size=16, seed=0)[0]
    assert record.error == f"{failing}: ValueError: l2 alone"
    assert record.attack == f"{alone.attack}, {failing}"
    assert (record.distance, record.median) == (alone.distance, alone.median)


@pytest.mark.slow
def test_the_nearest_of_several_attacks_counts(case, monkeypatch):
    """No attack alone finds a smaller distance than all of them together."""
    net, judged = case
    both = minimum.ATTACKS["l2"]
    assert [spec.partition("(")[0] for spec in both] == ["fab_t", "ddn", "min_apgd"]
    together = torch.tensor(measure_minimum(*judged.on(net), n=40, batch_size=16, seed=0)[1].distance)
    apart = []
    for turn, spec in enumerate(both):
        monkeypatch.setattr(
            minimum, "ATTACKS", minimum.ATTACKS | {"l2": ["tests.helpers.eval_models:idle"] * turn + [spec]}
        )
        apart.append(measure_minimum(*judged.on(net), n=40, batch_size=16, seed=0)[1].distance)
    torch.testing.assert_close(together, torch.tensor(apart).amin(0), rtol=1e-4, atol=1e-6)
    assert len({tuple(distances) for distances in apart}) > 1, "the attacks find the same distances"


def test_a_model_without_gradients_is_told_what_to_give(case):
    net, judged = case
    blind = Masked(net)
    blind.differentiable = False
    with pytest.raises(InputError, match="--attack hopskipjump"):
        measure_minimum(*judged.on(blind), n=8, batch_size=16, seed=0)


def test_the_cascade_has_the_distances_already():
    x, y = make_batch()
    net = make_net()
    judged = judged_by(net, x, y, ["pgd(steps=3)", "tests.helpers.eval_models:nearest"])
    (record,) = minimum_of_cascade(judged.evaluation)
    assert record.norm == "linf"
    assert record.attack == "tests.helpers.eval_models:nearest"
    assert record.n == len(y) == len(record.distance)
    for sample, distance in zip(judged.evaluation.samples, record.distance, strict=True):
        if sample.clean != sample.label:
            assert distance == 0
        elif sample.broken_by is None and sample.nearest["tests.helpers.eval_models:nearest"] is None:
            assert distance is None
        else:
            assert distance > 0
    assert record.censored == record.distance.count(None) > 0
    assert minimum_of_cascade(judged_by(net, x, y).evaluation) == []


def test_within_eps_on_the_page_are_those_that_the_cascade_broke():
    """Attacks end on the surface of the ball, where rounding may put an example slightly beyond eps; `verify` allows for it."""
    x, y = make_batch()
    eps = 0.06
    judged = judged_by(make_net(), x, y, ["pgd(steps=3)", "tests.helpers.eval_models:nearest"], eps)
    (record,) = minimum_of_cascade(judged.evaluation)
    robust = judged.evaluation.robust
    assert sum(one is not None and eps < one <= eps + BALL for one in record.distance) > 0
    broken_or_wrong = sum(one is not None and one <= eps + BALL for one in record.distance)
    assert broken_or_wrong == robust.total - robust.correct
    page = render([replace(judged.evaluation, minimum=[record])], sections=["minimum"])
    shown = re.findall(r'data-derived="share within eps"[^>]*>([^<]*)<', page)
    assert shown == [f"{1 - robust.accuracy:.1%}"]


def test_quartiles_with_censored_distances():
    inf = math.inf
    assert quartiles([1, 2, 3, 4, 5]) == [2, 3, 4]
    assert quartiles([4, 1, 2, 3]) == pytest.approx([1.75, 2.5, 3.25])
    assert quartiles([1, 2, inf, inf, inf]) == [2, None, None]
    assert quartiles([1, 2, 3, inf]) == [1.75, 2.5, None]
    assert quartiles([inf]) == [None, None, None]
    assert quartiles([]) == [None, None, None]
    assert quartiles([7]) == [7, 7, 7]


def only_l2(model, x, y, threat, *, generator=None):
    if threat.norm != "l2":
        raise ValueError("l2 alone")
    return x
