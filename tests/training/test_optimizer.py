"""Optimizers and learning-rate schedules, against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn

from robustcls.core.plugins import load, names
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.muon import orthogonal
from robustcls.training.optimizer import make_optimizer
from tests.helpers.tiny_run import FLAT, SMALL, brighter, first_batch, named_gradients, values_of

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
    fit(run, lambda run: rates.append([group["lr"] for group in run.state.optimizer.param_groups]))
    half = [0.4 * share for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert rates == [pytest.approx([rate, rate]) for rate in half + half[::-1]]
    assert [row.lr for row in run.state.history] == pytest.approx([half[-1], half[0]])


def test_adamw_is_its_papers_update(make_run):
    lr, decay, (b1, b2) = 0.01, 0.3, (0.8, 0.999)
    options = {"optimizer": "adamw", "lr": lr, "weight_decay": decay, "momentum": b1, "schedule": "constant"}
    run = make_run(**SMALL, **options)
    x, y = first_batch(run)
    run.state.attack = brighter
    values = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in values.items()}
    v = copy.deepcopy(m)
    for t in (1, 2, 3):
        run.state.step(run.state, x, y)
        for name, gradient in named_gradients(run.state.model).items():
            if values[name].ndim > 1:
                values[name] *= 1 - lr * decay
            m[name] = b1 * m[name] + (1 - b1) * gradient
            v[name] = b2 * v[name] + (1 - b2) * gradient**2
            values[name] -= lr * (m[name] / (1 - b1**t)) / ((v[name] / (1 - b2**t)).sqrt() + 1e-8)
    for name, p in run.state.model.named_parameters():
        assert torch.allclose(p, values[name], atol=1e-5), name


def test_muon_is_its_papers_update(make_run):
    lr, decay, momentum = 0.01, 0.3, 0.8
    options = {"optimizer": "muon", "lr": lr, "weight_decay": decay, "momentum": momentum, "schedule": "constant"}
    run = make_run(**SMALL, **options)
    x, y = first_batch(run)
    run.state.attack = brighter
    values = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    buffers = {name: torch.zeros_like(p) for name, p in values.items()}
    filters = [name for name, value in values.items() if value.ndim == 4]
    assert 0 < len(filters) < len(values)
    for _ in range(3):
        run.state.gradient(x, y, run.state.attack)
        gradients = named_gradients(run.state.model)
        run.state.update()
        for name, gradient in gradients.items():
            buffers[name] = momentum * buffers[name] + gradient
            update = gradient + momentum * buffers[name]
            if values[name].ndim > 1:
                values[name] *= 1 - lr * decay
            values[name] -= lr * (by_svd(update) if name in filters else update)
    for name, p in run.state.model.named_parameters():
        assert torch.allclose(p, values[name], atol=1e-5), name


def by_svd(update):
    """Apply Muon's polynomial five times to the singular values of filters, in float64."""
    left, values, right = torch.linalg.svd(update.flatten(1).double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values @ right).view(update.shape).to(update.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 72), (32, 9), (16, 16)])
def test_orthogonal_matrices_keep_the_singular_vectors(shape, dtype):
    left, _ = torch.linalg.qr(torch.randn(shape[0], min(shape)))
    right, _ = torch.linalg.qr(torch.randn(shape[1], min(shape)))
    found = (
        left.t() @ orthogonal(100 * left @ torch.diag(torch.linspace(0.2, 1, min(shape))) @ right.t(), dtype) @ right
    )
    assert found.diagonal().min() > 0.6
    assert found.diagonal().max() < 1.3
    assert (found - torch.diag(found.diagonal())).abs().max() < (1e-4 if dtype == torch.float32 else 0.05)


def test_a_zero_update_stays_zero():
    assert torch.equal(orthogonal(torch.zeros(4, 9)), torch.zeros(4, 9))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("piecewise(first=0.4, second=0.8, factor=0.2)", [1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04]),
        ("cyclic(cycles=2, low=0.1)", [0.28, 0.64, 1, 0.64, 0.28, 0.28, 0.64, 1, 0.64, 0.28]),
    ],
)
def test_rates_reach_the_optimizer(schedule, shares, make_run):
    run = make_run(**FLAT, adv="none", lr=0.5, schedule=schedule)
    rates = []
    fit(run, lambda run: rates.append({group["lr"] for group in run.state.optimizer.param_groups}))
    assert [len(each) for each in rates] == [1] * 10
    assert [max(each) for each in rates] == pytest.approx([0.5 * share for share in shares])


def test_weight_decay_is_for_the_weights_of_convolutions_and_linear_layers(make_run):
    run = make_run(weight_decay=0.3)
    decayed, rest = run.state.optimizer.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in run.state.model.named_parameters()}
    matrices = {id(parameter) for parameter in run.state.model.parameters() if parameter.ndim > 1}
    assert {id(parameter) for parameter in decayed["params"]} == matrices
    assert len(decayed["params"]) == 14
    assert {id(p) for p in rest["params"]} == names.keys() - matrices
    assert len(rest["params"]) == 2 * 13 + 1


def test_weight_decay_acts(make_run):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = values_of(model)
    optimizer = make_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5, momentum=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(model[0].weight, before["0.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model[0].bias, before["0.bias"])
    assert torch.equal(model[1].weight, before["1.weight"])
