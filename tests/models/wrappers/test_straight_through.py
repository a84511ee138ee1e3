import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.models.wrappers.straight_through import StraightThrough, straight_through


def levels(x):
    """Round the image to multiples of 1/4, without a gradient."""
    return (x.detach() * 4).round() / 4


def square(x):
    return x**2


def wider(x):
    """Return all channels twice, without a gradient."""
    return torch.cat([x, x], 1).detach()


def wider_substitute(x):
    return torch.cat([x, x], 1)


class Levels(nn.Module):
    def forward(self, x):
        return x.mul_(4).round_().div_(4)  # in place, as in some models


class Net(nn.Module):
    def __init__(self, front=None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = Levels() if front is None else front
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        return self.body(self.front(x))


class Calling(Net):
    """A network that calls the function by its name in this module."""

    def forward(self, x):
        return self.body(levels(x))


def batch():
    return torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def by_hand(net, x, y):
    """Return the gradient of the loss at the quantised image, which the identity passes on."""
    z = levels(x).requires_grad_()
    return torch.autograd.grad(cross_entropy(net.body(z), y).sum(), z)[0]


@pytest.mark.parametrize(
    ("net", "layer"),
    [(Net(), "front"), (Calling(), f"{__name__}:levels"), (Calling(), levels), (Net(), 0)],
    ids=["by name", "function by name", "function", "module"],
)
def test_the_gradient_is_that_behind_the_layer(net, layer):
    x, y = batch()
    kept = x.clone()
    layer = net.front if layer == 0 else layer
    model = StraightThrough(net, layer)
    gradient = input_gradient(lambda images: model(images * 1), x, y)  # the first layer may overwrite its input
    torch.testing.assert_close(gradient, by_hand(net, x, y), rtol=0, atol=0)
    assert input_gradient(lambda images: net(images * 1), x, y).abs().max() == 0, "alone it has no gradient"
    assert torch.equal(model(x.clone()), net(x.clone())), "the forward pass is the model's own"
    assert torch.equal(x, kept)


def test_the_model_is_left_as_it_was():
    net, (x, _) = Net(), batch()
    straight_through(net, layer="front")(x.clone())
    assert not net.front._forward_hooks
    assert not net.front._forward_pre_hooks
    before = levels
    StraightThrough(Calling(), levels)(x)
    assert levels is before


def test_a_substitute_gives_the_gradient():
    net, (x, y) = Net(), batch()
    found = input_gradient(StraightThrough(net, "front", square), x.clone(), y)
    torch.testing.assert_close(found, by_hand(net, x, y) * 2 * x)
    named = straight_through(net, layer="front", substitute=f"{__name__}:square")
    torch.testing.assert_close(input_gradient(named, x.clone(), y), found)


def test_a_layer_that_changes_the_shape_needs_a_substitute():
    class Wide(Net):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.body[1] = nn.Linear(24, 5)
            self.front.forward = wider

    net, (x, y) = Wide(), batch()
    with pytest.raises(
        InputError, match=r"front gives \(6, 6, 2, 2\) and its input is \(6, 3, 2, 2\): give a `substitute`"
    ):
        straight_through(net, layer="front")(x)
    z = torch.cat([x, x], 1).requires_grad_()
    first, second = torch.autograd.grad(cross_entropy(net.body(z), y).sum(), z)[0].chunk(2, 1)
    found = input_gradient(StraightThrough(net, "front", wider_substitute), x, y)
    torch.testing.assert_close(found, first + second)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("fron", "no layer 'fron': did you mean 'front'"),
        ("", "needs a layer of the model"),
        ("nowhere.at_all:levels", "no module 'nowhere"),
        (f"{__name__}:square", "did not run when the model did"),
        (nn.ReLU(), "ReLU is not a layer of the model"),
        (lambda x: x, "neither a submodule nor a function of a module"),
    ],
)
def test_a_layer_that_is_none_is_refused(layer, said):
    with pytest.raises(InputError, match=said) as caught:
        StraightThrough(Calling(), layer)(batch()[0])
    assert "\n" not in str(caught.value)


def test_an_attack_passes_a_layer_that_stopped_it():
    net, (x, _) = Net().eval(), batch()
    with torch.no_grad():
        y = net(x.clone()).argmax(1)
    attacked = [
        robustcls.attack(model, x, y, "linf:0.5", "pgd(steps=10, random_start=False)")
        for model in (net, robustcls.straight_through(net, layer="front"))
    ]
    with torch.no_grad():
        stopped, passed = ((net(images.clone()).argmax(1) == y).float().mean() for images in attacked)
    assert stopped == 1
    assert passed < 0.5


def test_what_stands_in_for_a_layer_is_in_the_name():
    def zero(x):
        return x * 0

    every = [None, f"{__name__}:square", square, zero, lambda x: x, lambda x: 2 * x, nn.Identity()]
    names = [StraightThrough(Net(), "front", one).title for one in every]
    assert len(set(names)) == len(every)
    assert names == [StraightThrough(Net(), "front", one).title for one in every]
    ends = ("", f", substitute={__name__}:square")
    assert names[:2] == [f"straight_through(Net, layer=front{end})" for end in ends]
