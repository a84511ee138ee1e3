"""The low-precision model for searching: fp32 decides close calls; choice of the precision."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.gradients import frozen, input_gradient
from robustcls.core.losses import margin, misclassified
from robustcls.runtime import search
from robustcls.runtime.device import has_bf16
from robustcls.runtime.fused import Counted, FusedModel
from robustcls.runtime.search import CLOSE, RefinedModel, close_calls, faster_precision, make_search_model
from tests.helpers.attack_nets import trained_on_digits

CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bf16 instructions")


@pytest.fixture(scope="module")
def near():
    """Return a network, pairs of images just on either side of its boundary, and their labels."""
    net, x, y = trained_on_digits(300)
    x_adv = robustcls.attack(net, x, y, "linf:0.15", "pgd(steps=20, early_stop=False)")
    low, high = torch.zeros(len(x)), torch.ones(len(x))
    with torch.no_grad():
        crosses = net(x_adv).argmax(1) != y
        x, y, x_adv, low, high = x[crosses], y[crosses], x_adv[crosses], low[crosses], high[crosses]
        for _ in range(12):
            middle = (low + high) / 2
            wrong = net(x + middle.view(-1, 1, 1, 1) * (x_adv - x)).argmax(1) != y
            low, high = middle.where(~wrong, low), middle.where(wrong, high)
    ends = torch.cat([x + end.view(-1, 1, 1, 1) * (x_adv - x) for end in (low, high)])
    return net, ends, torch.cat([y, y])


def test_close_calls_are_those_of_the_first_two_logits():
    largest = 10.0
    logits = torch.tensor([
        [largest, largest * (1 - CLOSE / 2), 0.0],
        [largest, largest * (1 - 2 * CLOSE), 0.0],
        [-1.0, -1.0 - largest * CLOSE / 2, -largest],
        [largest, -torch.inf, -torch.inf],
        [torch.nan, 1.0, 0.0],
        [torch.inf, 1.0, 0.0],
    ])  # fmt: skip
    assert close_calls(logits).tolist() == [True, False, True, False, True, True]


def test_fp32_decides_close_calls(near):
    net, x, y = near
    with frozen(net), torch.no_grad():
        exact = net(x)
        refined, low = RefinedModel(net, "bf16", x[:1]), FusedModel(net, "bf16", x[:1])
        close = close_calls(low(x))
        torch.testing.assert_close(refined(x)[close], exact[close], rtol=1e-4, atol=1e-4)
        assert torch.equal(refined(x)[~close], low(x)[~close])
        assert (misclassified(low(x), y) != misclassified(exact, y)).sum() > 5, "bf16 alone would decide differently"
        same = misclassified(refined(x), y) == misclassified(exact, y)
        assert same.all()
    assert close.sum() > 10


def test_without_close_calls_low_precision_would_decide(near, monkeypatch):
    """This is the control: the same test with a search model in which bf16 alone decides that a sample leaves."""
    net, x, y = near
    monkeypatch.setattr(search, "close_calls", lambda logits: torch.zeros(len(logits), dtype=torch.bool))
    with frozen(net), torch.no_grad():
        refined = RefinedModel(net, "bf16", x[:1])
        assert not torch.equal(misclassified(refined(x), y), misclassified(net(x), y))


def test_the_gradient_stays_that_of_low_precision_and_passes_are_counted(near):
    net, x, y = near
    with frozen(net):
        refined, low = RefinedModel(net, "bf16", x[:1]), FusedModel(net, "bf16", x[:1])
        close = int(close_calls(low(x).detach()).sum())
        expected = input_gradient(low, x, y, margin)
        # The gradient of this loss depends only on the order of the logits.
        found = input_gradient(refined, x, y, margin)
    same = (found == expected).flatten(1).all(1)
    assert same.float().mean() > 0.9
    assert refined.forwards == len(x) + close
    assert refined.backwards == len(x)


class Says(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[: len(x)]


def test_what_overflows_in_low_precision_has_fp32s_logits():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    low = torch.tensor([[torch.inf, 0.0, 1.0], [3.0, -torch.inf, 0.0]])
    with frozen(net):
        refined = RefinedModel(net, "bf16", torch.rand(1, 1, 2, 2))
        refined.exact, refined.copy = Says(torch.tensor([[7.0, 6.0, 1.0]])), Says(low)
        found = refined(torch.rand(2, 1, 2, 2))
    assert found.tolist() == [[7.0, 6.0, 1.0], [3.0, -torch.inf, 0.0]]


@needs_bf16
@pytest.mark.parametrize("attack", ["malt(steps=10, targets=1)", "apgd_pm(steps=10)", "apgd_ce(steps=10)"])
def test_searching_in_bf16_breaks_what_fp32_breaks(attack):
    net, x, y = trained_on_digits(300)
    left = [
        robustcls.evaluate(net, x, y, "linf:0.1", attacks=attack, precision=precision).robust.correct
        for precision in ("fp32", "bf16")
    ]
    assert 20 < left[0] < 250
    assert abs(left[1] - left[0]) <= 1


def test_a_claim_that_fp32_denies_is_attacked_again_and_nothing_else(near, monkeypatch):
    """Samples that left because of bf16 alone are attacked again, and only these."""
    net, x, y = near
    half = len(x) // 2
    monkeypatch.setattr(search, "close_calls", lambda logits: torch.zeros(len(logits), dtype=torch.bool))
    with torch.no_grad():
        low = FusedModel(net, "bf16", x[:1])
        right = net(x[:half]).argmax(1) == y[:half]
        claims = int((misclassified(low(x[:half]), y[:half]) & right & ~misclassified(net(x[:half]), y[:half])).sum())
    met = []

    def standing(model, x, y, threat):
        met.append(len(x))
        return x

    found = robustcls.evaluate(net, x[:half], y[:half], "linf:0.1", attacks=standing, precision="bf16", batch_size=half)
    assert found.robust.correct == int(right.sum())
    assert claims > 0
    assert met == [int(right.sum()), claims]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("low", "chosen"), [(1.0, "bf16"), (1.9, "fp32"), (3.0, "fp32")])
def test_auto_takes_what_is_faster(near, monkeypatch, low, chosen):
    net, x, _ = near
    clock = Clock()

    def gradient(model, x, y):
        clock.now += low if isinstance(model, RefinedModel) else 2.0

    monkeypatch.setattr(search, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(search, "input_gradient", gradient)
    monkeypatch.setattr(search, "has_bf16", lambda device: True)
    monkeypatch.setattr(search, "LEAST_FLOPS", 0)
    assert faster_precision(net, x) == chosen


def test_auto_is_fp32_without_timing_for_small_models_and_where_there_is_no_bf16(near, monkeypatch):
    net, x, _ = near
    monkeypatch.setattr(search, "input_gradient", None)
    monkeypatch.setattr(search, "has_bf16", lambda device: True)
    assert faster_precision(net, x) == "fp32"
    monkeypatch.setattr(search, "LEAST_FLOPS", 0)
    monkeypatch.setattr(search, "has_bf16", lambda device: False)
    assert faster_precision(net, x) == "fp32"


def test_low_precision_is_searched_on_a_refined_copy(near):
    net, x, _ = near
    with frozen(net):
        assert type(make_search_model(net, "bf16", x[:4])) is RefinedModel
        assert type(make_search_model(net, "fp32", x[:4])) is FusedModel
        assert isinstance(Counted(net), Counted)
