"""sigma-zero against the exact minimum of a linear model, and against the published steps with torch's Adam and gradients."""

import math

import pytest
import torch
from torch import Tensor, nn

import robustcls
from robustcls.attacks.sigma_zero import sigma_zero
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import misclassified
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from tests.helpers.attack_nets import deeper_net, fit_digits, linear
from tests.helpers.seeds import seeded

L0 = ThreatModel("l0", 8)


def fewest(net: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """Return the exact minimum for a linear model of two classes: the number of values, taken in the order of their gain and
    moved to the edge of the box, until the sign of the margin turns."""
    weight, bias = net[1].weight.detach(), net[1].bias.detach()
    w = (weight[1 - y] - weight[y]).double()
    flat = x.flatten(1).double()
    lack = -((w * flat).sum(1) + (bias[1 - y] - bias[y]).double())
    gain = torch.where(w > 0, w * (1 - flat), -w * flat).sort(dim=1, descending=True).values.cumsum(1)
    return (gain < lack[:, None]).sum(1) + 1.0


def test_a_linear_model_of_two_classes_is_broken_by_the_fewest_values():
    net = linear(2, 48)
    x = torch.rand(64, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    exact = fewest(net, x, y)
    assert exact.max() > 3, "one value is enough for nearly every sample, so this case proves nothing"
    x_adv = robustcls.attack(net, x, y, L0, "sigma_zero(steps=300)")
    distance = L0.distance(x_adv, x)
    with torch.no_grad():
        assert (net(x_adv).argmax(1) != y).all()
    assert (distance >= exact).all(), "nothing is nearer than the optimum"
    assert (distance == exact).float().mean() >= 0.8
    assert (distance - exact).max() <= 1


def published(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Return the smallest count of each sample by the published algorithm, with autograd for the loss and torch's Adam for the
    step."""
    delta = torch.zeros_like(x).requires_grad_()
    eta, tau = 1.0, torch.full((len(x), 1, 1, 1), 0.3)
    adam = torch.optim.Adam([delta], lr=eta)
    best = torch.full((len(x),), math.inf)
    for i in range(steps):
        logits = model(x + delta)
        true = logits.gather(1, y[:, None]).squeeze(1)
        other = logits.scatter(1, y[:, None], -math.inf).amax(1)
        smooth = (delta**2 / (delta**2 + 1e-3)).flatten(1).mean(1)
        ((true - other).clamp(min=0) + smooth).sum().backward()
        adversarial = misclassified(logits.detach(), y)
        count = (delta.detach() != 0).flatten(1).sum(1).float()
        best = torch.where(adversarial, torch.minimum(best, count), best)
        delta.grad /= delta.grad.flatten(1).norm(p=math.inf, dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        adam.param_groups[0]["lr"] = eta
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            delta.copy_((x + delta).clamp(0, 1) - x)
            eta = 0.1 + 0.9 * (1 + math.cos(math.pi * i / steps)) / 2
            tau = (tau + torch.where(adversarial, 0.01 * eta, -0.01 * eta).view(-1, 1, 1, 1)).clamp(0, 1)
            delta[delta.abs() < tau] = 0
    return best


def test_the_published_steps_give_the_same_counts():
    net = deeper_net()
    x, y = fit_digits(net, epochs=6, noise=0.1)
    x, y = x[:60], y[:60]
    with torch.no_grad():
        right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    with torch.enable_grad():
        theirs = published(net, x, y, 60)
    ours = sigma_zero(net, x, y, L0, steps=60)
    found = L0.distance(ours, x)
    assert theirs.isfinite().all()
    assert (found == theirs).float().mean() >= 0.8, (
        "a few counts may differ, because rounding decides near the threshold"
    )
    assert found.median() == theirs.median()
    assert found.mean().item() == pytest.approx(theirs.mean().item(), rel=0.03)


@pytest.mark.parametrize("name", plugins.names("attack"))
def test_attacks_that_do_not_know_l0_refuse_in_a_line(name):
    net, x = linear(3, 48), torch.rand(2, 3, 4, 4, generator=seeded())
    if traits_of(plugins.load("attack", name)).l0:
        assert name == "sigma_zero"
        return
    for call in (
        lambda: robustcls.attack(net, x, torch.zeros(2).long(), L0, name),
        lambda: robustcls.evaluate(net, x, torch.zeros(2).long(), L0, attacks=[name]),
    ):
        with pytest.raises(InputError, match='does not know l0: take `attacks="sigma_zero"`') as refusal:
            call()
        assert "\n" not in str(refusal.value)


def test_an_own_attack_may_know_l0():
    def all_towards(model, x, y, threat):
        weight = net[1].weight
        return threat.project(x + (weight[1 - y] - weight[y]).sign().view_as(x), x)

    net, x = linear(2, 48), torch.rand(20, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        y = net(x).argmax(1)
    found = robustcls.evaluate(net, x, y, ThreatModel("l0", 40), attacks=[all_towards], precision="fp32")
    assert found.robust.accuracy < 1
    assert found.examples.distance.nan_to_num(0).max() <= 40


def test_an_evaluation_in_l0_counts_what_lies_within_eps_and_draws_its_curve():
    net = linear(2, 48)
    x = torch.rand(64, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        y = net(x).argmax(1)
    exact = fewest(net, x, y)
    found = robustcls.evaluate(
        net, x, y, "l0:2", attacks="sigma_zero(steps=300)", eps_grid="0,1,2,3,5", precision="fp32"
    )
    assert (found.threat.norm, found.threat.eps, found.threat.eps_text) == ("l0", 2, "2")
    assert [point.eps for point in found.curve] == [0, 1, 2, 3, 5]
    for point in found.curve:
        assert 0 <= point.robust.correct - int((exact > point.eps).sum()) <= 8
    inside = found.examples.success
    assert found.examples.distance[inside].max() <= 2
    with pytest.raises(InputError, match="standard has no l0"):
        robustcls.evaluate(net, x, y, "l0:2", suite="standard")
    assert robustcls.evaluate(net, x[:8], y[:8], "l0:2", suite="fast").attacks[0].name == "sigma_zero"
