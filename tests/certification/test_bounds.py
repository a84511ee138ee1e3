"""Bounds against independent results: all points of a grid, closed forms, and a plain loop over the neurons."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustcls.certification.bounds import METHODS, Region, _margins, certify_bounds, interval_margins, intervals
from robustcls.certification.graph import trace
from robustcls.certification.layers import Monotone
from robustcls.certification.network import read
from robustcls.core.errors import InputError
from robustcls.core.mask import Mask
from robustcls.core.threat import BALL, ThreatModel
from robustcls.models.checkpoint import build
from tests.helpers.random_networks import KINDS, margins, random_network

NORMS = ("linf", "l2")


def tiny(seed, inputs=2, gain=2.0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(gain)
    return net


def least_margins(net, x, y, norm, eps):
    """Return the smallest margins over a grid of ball and box (K), by brute force."""
    sides = [torch.linspace(0, 1, 401 if x.numel() == 2 else 40001, dtype=torch.float64)] * x.numel()
    points = torch.cartesian_prod(*sides).view(-1, x.numel())
    away = points - x.view(-1).double()
    inside = away.abs().amax(1) <= eps if norm == "linf" else away.norm(dim=1) <= eps
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(points[inside].view(-1, 1, 1, x.numel()))
    return (logits[:, y][:, None] - logits).amin(0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("inputs", [1, 2])
def test_a_bound_is_below_the_least_margin_of_all_points(method, norm, inputs):
    for seed in range(12):
        net = tiny(seed, inputs)
        x = torch.rand(2, 1, 1, inputs)
        y = net(x).argmax(1)
        found = certify_bounds(net, x, y, ThreatModel(norm, 0.15), method=method)
        for k in range(2):
            least = least_margins(net, x[k], y[k], norm, 0.15)
            assert (found.margins[k] <= least + 1e-6)[torch.arange(3) != y[k]].all()
            assert not found.certified[k] or least[torch.arange(3) != y[k]].min() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_crown_is_exact_where_every_neuron_keeps_its_sign(norm):
    """The network is linear there, so the bound is the margin minus eps times the dual norm of its gradient."""
    for seed in range(5):
        net, eps = tiny(seed, 36, gain=1.0), 1e-4
        x = torch.rand(3, 1, 6, 6) * 0.8 + 0.1  # far from the edge of the box
        y = net(x).argmax(1)
        found = certify_bounds(net, x, y, ThreatModel(norm, eps))
        exact = copy.deepcopy(net).double()
        for k in range(3):
            for other in set(range(3)) - {int(y[k])}:
                point = x[k : k + 1].double().requires_grad_()
                margin = exact(point)[0, y[k]] - exact(point)[0, other]
                slope = torch.autograd.grad(margin, point)[0]
                dual = slope.abs().sum() if norm == "linf" else slope.norm()
                assert found.margins[k, other].item() == pytest.approx(
                    (margin - (eps * (1 + BALL) + BALL) * dual).item(), abs=1e-9
                )


def crown_by_loops(weights, biases, low, high, c):
    """Return CROWN's bound for linear layers and ReLU in linf, neuron by neuron (Zhang et al. 2018, theorem 3.2)."""

    def below(row, constant, layer, boxes):
        for index in range(layer, -1, -1):
            constant, row = constant + row @ biases[index], row @ weights[index]
            if index:
                after = np.zeros_like(row)
                for j, (low_j, u) in enumerate(zip(*boxes[index - 1], strict=True)):
                    if low_j >= 0:
                        slope, offset = 1.0, 0.0
                    elif u <= 0:
                        slope, offset = 0.0, 0.0
                    elif row[j] > 0:
                        slope, offset = float(u >= -low_j), 0.0
                    else:
                        slope, offset = u / (u - low_j), -low_j * u / (u - low_j)
                    after[j] = row[j] * slope
                    constant += row[j] * offset
                row = after
        return constant + sum(a * (low[i] if a > 0 else high[i]) for i, a in enumerate(row))

    boxes = []
    for layer in range(len(weights) - 1):
        unit = np.eye(len(biases[layer]))
        boxes.append(([below(e, 0.0, layer, boxes) for e in unit], [-below(-e, 0.0, layer, boxes) for e in unit]))
    return below(c, 0.0, len(weights) - 1, boxes)


def test_crown_is_at_least_as_tight_as_a_plain_loop():
    """Ours is tighter where intervals from the previous layer bound a neuron more tightly. In most cases both are equal."""
    equal = 0
    for seed in range(20):
        net = tiny(seed, 6, gain=1.5)
        x = torch.rand(1, 1, 2, 3)
        y = net(x).argmax(1)
        eps = 0.03
        found = certify_bounds(net, x, y, ThreatModel("linf", eps)).margins[0]
        linear = [one for one in net if isinstance(one, nn.Linear)]
        weights, biases = (
            [getattr(one, name).detach().double().numpy() for one in linear] for name in ("weight", "bias")
        )
        point = x.flatten().double().numpy()
        low, high = ((point + sign * (eps * (1 + BALL) + BALL)).clip(0, 1) for sign in (-1, 1))
        for k in set(range(3)) - {int(y)}:
            loop = crown_by_loops(weights, biases, low, high, np.eye(3)[y.item()] - np.eye(3)[k])
            assert found[k] >= loop - 1e-9
            equal += abs(found[k].item() - loop) < 1e-9
    assert equal > 30  # of 40


@pytest.mark.parametrize("kind", ["convolution", "mean"])
def test_a_convolutional_network_has_the_bounds_of_the_same_one_written_with_matrices(kind):
    """Every convolution, BatchNorm and mean pooling becomes a matrix, which is its Jacobian."""
    model = random_network(2, kind, "relu", 1.5)
    x = torch.rand(3, 2, 6, 6)
    y = model(x).argmax(1)
    exact = copy.deepcopy(model).double()
    network = read(trace(exact), x[:1].double())
    layers: list[nn.Module] = [nn.Flatten()]
    for number, step in enumerate(network.steps):
        if isinstance(step.layer, Monotone):
            layers.append(nn.ReLU())
            continue
        shape = network.shape(number)

        def function(flat, step=step, shape=shape):
            return step.layer(flat.view(1, *shape)).flatten()

        zeros = torch.zeros(shape.numel(), dtype=torch.float64)
        made = nn.Linear(shape.numel(), step.shape.numel()).double()
        made.weight.data, made.bias.data = torch.func.jacrev(function)(zeros), function(zeros).detach()
        layers.append(made)
    for method in METHODS:
        one, other = (
            certify_bounds(each, x, y, "linf:0.02", method=method).margins for each in (exact, nn.Sequential(*layers))
        )
        assert torch.allclose(one, other, atol=1e-9), method


def test_interval_margins_are_those_of_the_paper():
    """The margins are (w_y - w_k) mu - |w_y - w_k| r, where each layer computes mu' = W mu + b and r' = |W| r."""
    net = tiny(3, 5).double()
    x, y = torch.rand(4, 1, 1, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    region = Region(x, ThreatModel("linf", 0.05))
    network = read(trace(net.eval()), x[:1])
    found = interval_margins(network, region, intervals(network, region), y)
    low, high = (x - 0.05).clamp(0, 1).flatten(1), (x + 0.05).clamp(0, 1).flatten(1)
    for layer in (net[1], net[3]):
        mu, r = (low + high) / 2 @ layer.weight.T + layer.bias, (high - low) / 2 @ layer.weight.abs().T
        low, high = (mu - r).relu(), (mu + r).relu()
    mu, r, last = (low + high) / 2, (high - low) / 2, net[5]
    for n in range(4):
        for k in range(3):
            w = last.weight[y[n]] - last.weight[k]
            expected = w @ mu[n] + last.bias[y[n]] - last.bias[k] - w.abs() @ r[n]
            assert found[n, k].item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_bound_of_a_line_in_l2_lies_between_the_best_and_the_dual_norms():
    """An optimiser (SLSQP) finds the exact minimum over ball and box."""
    from scipy.optimize import minimize

    torch.manual_seed(0)
    x = torch.rand(1, 1, 2, 3, dtype=torch.float64).round(decimals=1)
    for eps in (0.1, 0.4, 1.5):
        region = Region(x, ThreatModel("l2", eps))
        for row in torch.randn(10, 1, 2, 3, dtype=torch.float64):
            found = region.least(row[None], slice(0, 1)).item()
            a, center = row.flatten().numpy(), x.flatten().numpy()
            best = minimize(
                lambda p, a=a: a @ p, center, jac=lambda p, a=a: a, bounds=[(0, 1)] * 6, method="SLSQP",
                constraints={"type": "ineq", "fun": lambda p, e=eps, c=center: e**2 - ((p - c) ** 2).sum()},
            )  # fmt: skip
            assert a @ center - eps * np.linalg.norm(a) - 1e-9 <= found <= best.fun + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_as_it_was_read_is_the_model(kind):
    model = random_network(1, kind, "relu", 1.0)
    x = torch.rand(5, 2, 6, 6)
    assert torch.allclose(read(trace(model), x[:1])(x), model(x), atol=1e-5)


@pytest.mark.parametrize("spec", ["cnn4", "cnn7(width=0.1)", "vgg11(width=0.05)", "resnet18(width=0.125)"])
def test_the_projects_architectures_are_known(spec):
    model = build(spec, classes=("a", "b", "c"), input_size=(1, 8, 8), mean=[0.3], std=[0.2]).eval()
    x = torch.rand(2, 1, 8, 8)
    y = model(x).argmax(1)
    expected = margins(model, x, y).scatter(1, y[:, None], torch.inf)
    exact, x = model.double(), x.double()
    found = _margins(read(trace(exact), x[:1]), Region(x, ThreatModel("linf", 1e-13)), y, "crown_ibp")
    assert torch.allclose(found, expected.double(), atol=1e-2)


class Written(nn.Module):
    """A network written with functions and methods instead of modules."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3, padding="same"), nn.Linear(16, 3)

    def forward(self, x):
        h = nn.functional.relu(self.conv(x * 2 - 1))
        h = nn.functional.max_pool2d(h, 2, stride=1) + nn.functional.avg_pool2d(h, 2, 1).tanh()
        h = nn.functional.dropout(nn.functional.adaptive_avg_pool2d(h, 2), training=self.training)
        return self.out(1 - h.view(h.size(0), -1)) / 3


def test_functions_and_methods_are_read_too():
    torch.manual_seed(0)
    model = Written().eval()
    x = torch.rand(5, 2, 6, 6)
    assert torch.allclose(read(trace(model), x[:1])(x), model(x), atol=1e-6)
    y = model(x).argmax(1)
    assert certify_bounds(model, x, y, "linf:1e-5").certified.all()


def test_what_the_mask_keeps_does_not_count():
    """The linear model uses only one pixel, which the mask does not allow to change."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    x, y = torch.full((1, 1, 2, 2), 0.2), torch.tensor([0])
    mask = Mask.of(torch.tensor([[False, True], [True, True]]))
    for norm in NORMS:
        assert not certify_bounds(net, x, y, ThreatModel(norm, 0.5)).certified
        assert certify_bounds(net, x, y, ThreatModel(norm, 0.5, mask=mask)).margins[0, 1].item() == pytest.approx(0.2)


def test_swapped_labels_and_ties_certify_nothing():
    model = random_network(0, "convolution", "relu", 1.0)
    x = torch.rand(20, 2, 6, 6)
    y = model(x).argmax(1)
    assert certify_bounds(model, x, y, "linf:1e-4").certified.any()
    assert not certify_bounds(model, x, (y + 1) % 3, "linf:1e-4").certified.any()
    constant = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    nn.init.zeros_(constant[1].weight)
    nn.init.zeros_(constant[1].bias)
    assert not certify_bounds(constant, x, torch.zeros(20, dtype=torch.long), "linf:0.1").certified.any()


def test_the_model_is_left_as_it_was():
    model = random_network(0, "residual", "relu", 1.0).train()
    model.net[0].weight.requires_grad_(False)
    model.net[0].bias.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(3, 2, 6, 6)
    certify_bounds(model, x, torch.zeros(3, dtype=torch.long), "linf:0.01")
    assert all(module.training for module in model.modules())
    assert not model.net[0].weight.requires_grad
    assert model.net[0].bias.grad.eq(1).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bounds_do_not_depend_on_who_else_is_in_the_batch_or_on_the_room(monkeypatch):
    from robustcls.certification import bounds

    model = random_network(0, "max", "relu", 2.0)
    x = torch.rand(6, 2, 6, 6)
    y = model(x).argmax(1)
    together = certify_bounds(model, x, y, "linf:0.02").margins
    monkeypatch.setitem(bounds.ROOM, "cpu", 4000)
    alone = torch.cat([certify_bounds(model, x[k : k + 1], y[k : k + 1], "linf:0.02").margins for k in range(6)])
    assert torch.allclose(together, alone, atol=1e-10)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(1)


class Calls(nn.Module):
    """A module that applies a function to its input; tracing looks inside it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(72, 3))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (flat(nn.SiLU()), r"layer 0 \(SiLU\) cannot be bounded: it is not monotone"),
        (flat(nn.GELU()), r"GELU"),
        (flat(nn.InstanceNorm2d(2)), r"layer 0 \(InstanceNorm2d\) cannot be bounded: bounds are for plain networks"),
        (flat(nn.BatchNorm2d(2, track_running_stats=False)), r"layer 0 \(BatchNorm2d\)"),
        (flat(nn.LeakyReLU(-0.1)), r"LeakyReLU"),
        (flat(nn.MaxPool2d(2, 1, dilation=2)), r"MaxPool2d"),
        (flat(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), r"Conv2d"),
        (nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Softmax(1)), r"layer 2 \(Softmax\)"),
        (flat(nn.Softplus(threshold=0.2)), r"layer 0 \(Softplus\) cannot be bounded: .* at its threshold"),
        (flat(nn.Softplus(threshold=-1000)), r"at its threshold"),
        (flat(Calls(lambda h: F.softplus(h, 1.0, 5))), r"softplus, cannot be bounded: .* at its threshold"),
        (flat(nn.AvgPool2d(1, divisor_override=-1)), r"layer 0 \(AvgPool2d\) cannot be bounded: its divisor_override"),
        (flat(Calls(lambda h: F.avg_pool2d(h, 1, divisor_override=-2))), r"avg_pool2d, .* its divisor_override"),
        (flat(Calls(lambda h: F.avg_pool2d(h, 1, None, 0, False, True, -2))), r"avg_pool2d, .* its divisor_override"),
        (flat(Calls(lambda h: h.squeeze())), r"the function squeeze, cannot be bounded: for a single image"),
        (flat(Calls(lambda h: torch.squeeze(h, 0))), r"for a single image it also removes"),
        (flat(Noisy()), r"no plain network"),
    ],
)
def test_what_cannot_be_bounded_is_refused_by_name_in_one_line(net, said):
    x = torch.rand(4, 2, 6, 6)
    with pytest.raises(InputError, match=said) as refused:
        certify_bounds(net.eval(), x, torch.zeros(4, dtype=torch.long), "linf:0.1")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("threat", "method", "said"),
    [
        ("l1:1", "crown", "take linf or l2"),
        ("l0:3", "crown", "take linf or l2"),
        ("linf:0", "crown", "`eps` above 0"),
        ("linf:-1", "crown", "not a radius"),
        ("linf:0.1", "crow", "did you mean 'crown'"),
        ("l2:100", "crown", "too large"),
    ],
)
def test_threat_models_and_methods_that_bounds_do_not_know_are_refused(threat, method, said):
    x = torch.rand(2, 2, 6, 6)
    with pytest.raises(InputError, match=said):
        certify_bounds(flat(nn.ReLU()), x, torch.zeros(2, dtype=torch.long), threat, method=method)


def test_images_and_labels_are_checked():
    net, y = flat(nn.ReLU()), torch.zeros(2, dtype=torch.long)
    with pytest.raises(InputError, match="not in"):
        certify_bounds(net, torch.rand(2, 2, 6, 6) + 1, y, "linf:0.1")
    with pytest.raises(InputError, match="beyond the model's 3 classes"):
        certify_bounds(net, torch.rand(2, 2, 6, 6), y + 5, "linf:0.1")


@pytest.mark.gpu
def test_bounds_on_cuda_are_those_of_the_cpu():
    model = random_network(0, "residual", "relu", 1.0)
    x = torch.rand(8, 2, 6, 6)
    y = model(x).argmax(1)
    here = certify_bounds(model, x, y, "linf:0.02")
    there = certify_bounds(model.cuda(), x.cuda(), y.cuda(), "linf:0.02")
    assert torch.allclose(here.margins, there.margins.cpu(), atol=1e-9)
    assert math.isinf(there.margins[0, y[0]].item())


def test_many_linear_residual_sums_take_no_exponential_time():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(40)])
            self.last = nn.Linear(16, 3)

        def forward(self, x):
            h = x.flatten(1)
            for layer in self.layers:
                h = h + 0.1 * layer(h)
            return self.last(torch.relu(h))

    torch.manual_seed(0)
    net, x = Sums().eval(), torch.rand(2, 1, 4, 4)
    assert certify_bounds(net, x, net(x).argmax(1), "linf:1e-6").certified.all()


@pytest.mark.parametrize("low", [-1.0, -0.2])
def test_hardtanh_is_the_same_as_a_function(low):
    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(F.hardtanh(self.first(x.flatten(1)), low, max_val=0.5))

    torch.manual_seed(0)
    net, x = Function().eval(), torch.rand(4, 1, 4, 4)
    modules = nn.Sequential(nn.Flatten(), net.first, nn.Hardtanh(low, 0.5), net.last)
    one, other = (certify_bounds(each, x, net(x).argmax(1), "linf:0.05").margins for each in (net, modules))
    assert torch.equal(one, other)
