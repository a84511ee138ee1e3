"""The adversarial patch on a small network trained on digits, and its geometry."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks.patch import lay, patch, place
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from tests.helpers.attack_nets import deeper_net, fit_digits

BOX = ThreatModel("linf", 1)


@pytest.fixture(scope="module")
def trained():
    """Return a network, and the first 300 test images with labels."""
    net = deeper_net()
    x, y = fit_digits(net, epochs=12)
    return net, x[:300], y[:300]


def attacked(trained, seed=0, **options):
    net, x, y = trained
    return patch(net, x, y, BOX, generator=torch.Generator().manual_seed(seed), **options)


@torch.no_grad()
def share(net, x_adv, labels) -> float:
    return (net(x_adv).argmax(1) == labels).float().mean().item()


def test_it_declares_what_it_is():
    traits = traits_of(plugins.load("attack", "patch(size=0.5)"))
    assert traits.unrestricted
    assert traits.universal
    assert traits.gradients


def test_training_beats_a_random_square(trained):
    net, x, y = trained
    assert share(net, x, y) > 0.95
    untrained, small, large = (share(net, attacked(trained, **o), y) for o in ({"steps": 0}, {}, {"size": 0.5}))
    assert small < untrained - 0.1
    assert large < small - 0.1


@pytest.mark.parametrize("target", [0, 5])
def test_a_target(trained, target):
    net, x, y = trained
    rows = y != target
    untrained, found = (attacked(trained, size=0.5, target=target, steps=steps)[rows] for steps in (0, 200))
    assert share(net, found, target) > share(net, untrained, target) + 0.15


def test_the_cascade_judges_it(trained):
    net, x, y = trained
    found = robustcls.evaluate(net, x, y, BOX, attacks=["patch(size=0.5)"], precision="fp32", batch_size=64)
    assert found.attacks[0].error == ""
    assert found.attacks[0].broken > 60
    assert found.attacks[0].options["size"] == 0.5


def test_same_seed_same_result(trained):
    first, again, other = (attacked(trained, seed, steps=5) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(9, 1, 8, 8), (9, 3, 12, 20), (9, 3, 20, 12), (1, 3, 5, 5)])
@pytest.mark.parametrize(("size", "rotation", "scale"), [(0.3, 20.0, 0.2), (0.6, 180.0, 0.1), (1.0, 45.0, 0.5)])
def test_outside_the_square_nothing_changes(shape, size, rotation, scale):
    n, channels, h, w = shape
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * h * w, 4))
    x, y = 0.25 + 0.5 * torch.rand(shape), torch.arange(n) % 4
    pixels = x.clone()
    x_adv = patch(model, x, y, BOX, size=size, rotation=rotation, scale=scale, steps=3, batch_size=4)
    assert torch.equal(x, pixels)
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    changed = (x_adv != x).any(1)
    area = (size * min(h, w) * (1 + scale)) ** 2
    for image in changed:
        assert 1 <= image.sum() <= area + 4 * area**0.5 + 4
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        across = 2**0.5 * area**0.5 + 1
        assert rows.max() - rows.min() < across
        assert columns.max() - columns.min() < across


def test_a_square_laid_straight_is_a_copy():
    """If its centre and side lie on whole pixels, sampling does not interpolate."""
    square, x = torch.rand(1, 3, 4, 4), torch.rand(50, 3, 8, 4)
    grid = place(x, 4, 0.0, 0.0, torch.Generator().manual_seed(0))
    grid[..., 1] = (grid[..., 1] * 2 + 0.5).round() / 2 - 0.25  # shift to whole pixels
    x_adv = lay(square, x, grid)
    tops = set()
    for image, clean in zip(x_adv, x, strict=True):
        top = int((image != clean).any(0).any(1).nonzero()[0])
        tops.add(top)
        torch.testing.assert_close(image[:, top : top + 4], square[0])
        assert torch.equal(image[:, :top], clean[:, :top])
        assert torch.equal(image[:, top + 4 :], clean[:, top + 4 :])
    assert tops == set(range(5))


def test_turns_and_sizes_reach_their_limits():
    x = torch.zeros(500, 1, 40, 40)
    covered = lay(torch.ones(1, 1, 8, 8), x, place(x, 16.0, 20.0, 0.25)).sum((1, 2, 3))
    assert 0.9 * 12**2 < covered.min() < 1.15 * 12**2
    assert 0.85 * 20**2 < covered.max() < 1.1 * 20**2
    step = place(x, 16.0, 20.0, 0.25).diff(dim=2)[:, 0, 0]  # along a row of pixels
    angle = torch.atan2(step[:, 1], step[:, 0]).rad2deg()
    assert -20 <= angle.min() < -19
    assert 19 < angle.max() <= 20


def test_gradients_flow_to_every_pixel_of_the_square():
    square, x = torch.rand(1, 3, 5, 5, requires_grad=True), torch.rand(20, 3, 16, 16)
    lay(square, x, place(x, 5.0, 20.0, 0.2)).sum().backward()
    assert (square.grad > 0).all()


def test_no_forward_pass_is_larger_than_a_batch():
    largest = []

    class Watched(nn.Module):
        def forward(self, x):
            largest.append(len(x))
            return x.flatten(1)[:, :4]

    patch(Watched(), torch.rand(50, 1, 8, 8), torch.zeros(50, dtype=torch.long), BOX, steps=3, batch_size=16, target=1)
    assert max(largest) == 16


@pytest.mark.parametrize(
    ("threat", "options", "message"),
    [
        (ThreatModel("linf", 8 / 255), {}, "judge it with `norm=linf` and `eps=1`"),
        (ThreatModel("l2", 5), {}, "judge it with `norm=linf` and `eps=1`"),
        (BOX, {"size": 0.0}, "give a size up to 1"),
        (BOX, {"size": 1.5}, "give a size up to 1"),
        (BOX, {"size": 0.1}, "8x8 pixels"),
        (BOX, {"scale": 1.0}, "a scale from 0 to below 1"),
        (BOX, {"steps": -1}, "give 0 steps or more"),
        (BOX, {"step_size": 0.0}, "above 0"),
        (BOX, {"batch_size": 0}, "batches of 1 or more"),
        (BOX, {"target": 4}, "give a class from 0 to 3"),
        (BOX, {"target": -1}, "give a class from 0 to 3"),
    ],
)
def test_wrong_input_is_named_in_one_line(threat, options, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(InputError) as caught:
        patch(model, torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long), threat, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_function_hands_in_all_images_at_once():
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x.flatten(1)[:, :3] * 5

    x, y = torch.rand(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)
    whole = ThreatModel("linf", 1)
    together = robustcls.attack(Watched(), x, y, whole, "patch(steps=2)", batch_size=4)
    assert torch.equal(together, robustcls.attack(Watched(), x, y, whole, "patch(steps=2)", batch_size=20))
