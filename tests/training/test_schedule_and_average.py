"""Learning-rate schedules and the moving average, against their formulas."""

import math

import pytest
import torch
from torch import nn

from robustcls.core.plugins import load, names
from robustcls.training.averages import Ema
from robustcls.training.loop import fit

VALUES = {
    "one_cycle": {0: 0, 0.125: 0.5, 0.25: 1, 0.625: 0.5, 1: 0},
    "one_cycle(warmup=0.5)": {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0},
    "cosine": {0: 0, 0.025: 0.5, 0.05: 1, 0.525: 0.5, 1: 0},
    "cosine(warmup=0.0)": {0: 1, 0.25: 0.5 + math.sqrt(2) / 4, 0.5: 0.5, 1: 0},
    "piecewise": {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01},
    "piecewise(first=0.2, second=0.6, factor=0.5, warmup=0.1)": {0: 0, 0.05: 0.5, 0.1: 1, 0.2: 0.5, 0.6: 0.25},
    "cyclic": {0: 0, 0.125: 0.5, 0.25: 1, 0.5: 0, 0.75: 1, 0.875: 0.5},
    "cyclic(cycles=1, low=0.5)": {0: 0.5, 0.25: 0.75, 0.5: 1, 0.75: 0.75},
    "constant": {0: 1, 0.5: 1, 1: 1},
    "constant(warmup=0.5)": {0: 0, 0.25: 0.5, 0.5: 1, 1: 1},
}


@pytest.mark.parametrize("spec", VALUES)
def test_start_peak_and_end(spec):
    schedule = load("schedule", spec)
    for progress, share in VALUES[spec].items():
        assert schedule(progress) == pytest.approx(share, abs=1e-12)


def test_every_schedule_is_checked():
    assert {spec.split("(")[0] for spec in VALUES} == set(names("schedule"))


def test_the_optimizer_gets_the_rate_of_the_middle_of_each_batch(make_run):
    run = make_run(adv="none", lr=0.4, schedule="one_cycle(warmup=0.5)")
    rates = []
    fit(run, lambda run: rates.append([group["lr"] for group in run.state.optimizer.param_groups]), lambda _: None)
    half = [0.4 * share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert rates == [pytest.approx([rate, rate]) for rate in half + half[::-1]]
    assert [row.lr for row in run.state.history] == pytest.approx([half[-1], half[0]])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.tensor(0.5))


@pytest.mark.parametrize("decay", [0.05, 0.25, 0.999])
def test_the_average_in_closed_form(decay):
    net = Net()
    ema = Ema(net, decay)
    start = net.weight.detach().clone()
    steps = [torch.tensor([float(t), t * t / 10]) for t in range(1, 7)]
    for t, weight in enumerate(steps):
        with torch.no_grad():
            net.weight.copy_(weight)
            net.mean.fill_(t)
        net.seen += 1
        ema.after_update(net)
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(6)]
    expected = math.prod(decays) * start
    for t, weight in enumerate(steps):
        expected = expected + (1 - decays[t]) * math.prod(decays[t + 1 :]) * weight
    assert torch.allclose(ema.model.weight, expected, rtol=1e-6)
    assert ema.model.mean.item() == 5  # buffers are the latest
    assert ema.model.seen.item() == 6
    assert (ema.updates, ema.model.weight.requires_grad) == (6, False)
    assert torch.equal(net.weight, steps[-1])
