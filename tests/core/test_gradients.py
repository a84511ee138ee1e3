import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustcls.core.gradients import frozen, input_gradient, logits_and_gradient
from robustcls.core.losses import cross_entropy, dlr, margin


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * 16, 4)
        self.register_buffer("counter", torch.zeros(()))
        self.register_buffer("average", torch.ones(4))
        self.register_buffer("later", None)

    def forward(self, x):
        self.counter += 1  # changed in place
        self.average = self.average * 0.5  # replaced
        self.later = torch.ones(2)  # set instead of None
        self.register_buffer("made", torch.zeros(1))  # a new buffer
        return self.head(self.drop(F.softplus(self.norm(self.conv(x)))).flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(1)
    return torch.rand(5, 1, 6, 6, generator=draw), torch.randint(0, 4, (5,), generator=draw)


@pytest.mark.parametrize("loss", [cross_entropy, dlr, margin])
def test_gradients_equal_finite_differences(net, batch, loss):
    x, y = batch
    net.eval().double()
    x = x.double()
    found = input_gradient(net, x, y, loss)
    step = 1e-3  # no smaller, because losses are float32
    for pixel in (0, 7, 20, 35):
        ahead, behind = x.clone(), x.clone()
        ahead.flatten(1)[:, pixel] += step
        behind.flatten(1)[:, pixel] -= step
        slope = (loss(net(ahead), y).double() - loss(net(behind), y).double()) / (2 * step)
        torch.testing.assert_close(found.flatten(1)[:, pixel], slope, rtol=0.02, atol=1e-3)
    assert found.abs().max() > 0.01


def test_gradients_equal_autograd_by_hand(net, batch):
    x, y = batch
    net.eval()
    leaf = x.clone().requires_grad_()
    logits = net(leaf)
    losses = F.cross_entropy(logits, y, reduction="none")
    losses.sum().backward()
    net.zero_grad()
    found = logits_and_gradient(net, x, cross_entropy, y)
    for ours, theirs in zip(found, (logits.detach(), losses.detach(), leaf.grad), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert not ours.requires_grad


def test_a_samples_gradient_does_not_depend_on_the_batch(net, batch):
    x, y = batch
    net.eval()
    torch.testing.assert_close(input_gradient(net, x[:1], y[:1]), input_gradient(net, x, y)[:1])


def test_the_parameters_gradients_are_not_touched(net, batch):
    x, y = batch
    input_gradient(net, x, y)
    assert all(parameter.grad is None for parameter in net.parameters())
    net(x).sum().backward()
    before = [parameter.grad.clone() for parameter in net.parameters()]
    input_gradient(net, x, y)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), before, strict=True))
    assert x.grad is None
    assert not x.requires_grad


def test_gradients_are_there_where_the_caller_switched_them_off(net, batch):
    net.eval()
    expected = input_gradient(net, *batch)
    with torch.no_grad():
        assert torch.equal(input_gradient(net, *batch), expected)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: (x.flatten(1)[:, :3] > 0.5).float(),
        lambda x: torch.ones(len(x), 3),
        lambda x: torch.ones(len(x), 3, requires_grad=True),
        lambda x: x.flatten(1)[:, :3].round(),
    ],
)
def test_a_model_without_gradient_gives_zeros(model):
    x = torch.rand(4, 1, 3, 3)
    assert torch.equal(input_gradient(model, x, torch.tensor([0, 1, 2, 0])), torch.zeros_like(x))


def state(net):
    return {
        "modes": [module.training for module in net.modules()],
        "flags": [parameter.requires_grad for parameter in net.parameters()],
        "buffers": {name: (id(b), None if b is None else b.clone()) for name, b in named_buffers(net)},
        "parameters": [(id(p), p.detach().clone()) for p in net.parameters()],
    }


def named_buffers(net):
    for prefix, module in net.named_modules():
        for name, buffer in module._buffers.items():
            yield f"{prefix}.{name}", buffer


def check_same(before, after):
    assert before["modes"] == after["modes"]
    assert before["flags"] == after["flags"]
    assert before["buffers"].keys() == after["buffers"].keys()
    for name, (identity, value) in before["buffers"].items():
        assert after["buffers"][name][0] == identity, name
        assert value is None or torch.equal(value, after["buffers"][name][1]), name
    for (identity, value), (identity_after, value_after) in zip(before["parameters"], after["parameters"], strict=True):
        assert identity == identity_after
        assert torch.equal(value, value_after)


@pytest.mark.parametrize("fails", [False, True])
def test_frozen_restores_everything(net, batch, fails):
    net.train()
    net.norm.eval()
    net.conv.weight.requires_grad_(False)
    before = state(net)
    with pytest.raises(ZeroDivisionError) if fails else frozen(copy.deepcopy(net)), frozen(net) as inner:
        assert inner is net
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
        first, second = net(batch[0]), net(batch[0])
        assert torch.equal(first, second)
        assert net.counter == 2
        if fails:
            raise ZeroDivisionError
    check_same(before, state(net))


def test_frozen_between_forward_and_backward_breaks_nothing(net, batch):
    net = nn.Sequential(net.conv, net.norm, nn.Flatten(), net.head)
    for training in (True, False):
        net.train(training)
        logits = net(batch[0])
        with frozen(net):
            input_gradient(net, *batch)
        logits.sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_frozen_takes_a_scripted_model(batch):
    net = torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train())
    with frozen(net):
        assert not net.training
        net(batch[0])
    assert net.training


def test_entries_that_are_not_finite_are_zero():
    x, y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    x[:2, 0, 0] = 0

    def root(x):
        return x.pow(0.5).flatten(1)[:, 4:8]  # the first row is black in two images

    losses, grad = logits_and_gradient(root, x, cross_entropy, y)[1:]
    assert losses.isfinite().all()
    assert (grad[:2, 0, 0, 4:] == 0).all()
    assert (grad[2:, 0, 0, 4:] != 0).all()
    torch.testing.assert_close(grad[2:], input_gradient(root, x[2:], y[2:]), rtol=1e-6, atol=1e-6)
