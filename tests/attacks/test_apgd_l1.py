"""Auto-PGD in l1."""

import pytest
import torch
from torch import Tensor

from robustcls.attacks._goal import Goal
from robustcls.attacks.apgd import Ascent, targeted_dlr
from robustcls.attacks.pgd import pgd
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, dlr, margin, misclassified, wrong_classes
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import Counting, linear, robust, trained_on_digits
from tests.helpers.seeds import seeded

THREAT = ThreatModel("l1", 2.0)


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits(200)


def run(
    net, x, y, threat=THREAT, loss=cross_entropy, steps=50, seed=0, target=None, start=None, early_stop=True
) -> Tensor:
    return Ascent(net, threat, Goal(y), loss, steps, early_stop).best_of(x, [target], 1, start, seeded(seed))


@pytest.mark.parametrize("eps", [1.2, 2.0, 3.0])
def test_robust_accuracy_is_that_of_autoattacks_own_code(trained, eps):
    """Each implementation draws its own random starts; the means of two runs differ by at most two points."""
    base = pytest.importorskip("pyautoattack.autopgd_base", reason="AutoAttack's own code is not installed")
    net, x, y = trained
    threat, ours, theirs = ThreatModel("l1", eps), 0.0, 0.0
    for seed in (0, 1):
        settings = {"n_iter": 100, "norm": "L1", "eps": eps, "seed": seed, "use_largereps": True, "device": "cpu"}
        theirs += robust(net, base.APGDAttack(net, **settings).perturb(x, y), x, y, threat) / 2
        ours += robust(net, run(net, x, y, threat, steps=100, seed=seed), x, y, threat) / 2
    assert ours == pytest.approx(theirs, abs=0.02)


def test_targeted_robust_accuracy_is_that_of_autoattacks_own_code(trained):
    base = pytest.importorskip("pyautoattack.autopgd_base", reason="AutoAttack's own code is not installed")
    net, x, y = trained
    settings = {"n_iter": 50, "norm": "L1", "eps": 2.0, "seed": 0, "use_largereps": True, "device": "cpu"}
    theirs = base.APGDAttack_targeted(net, n_target_classes=3, **settings).perturb(x, y)
    wrong, robust_to = wrong_classes(net(x), y), torch.ones(len(x), dtype=torch.bool)
    for rank in range(3):
        x_adv = run(net, x, y, loss=targeted_dlr, seed=rank, target=wrong[:, rank])
        robust_to &= margin(net(x_adv), y) <= 0
    assert robust_to.float().mean().item() == pytest.approx(robust(net, theirs, x, y, THREAT), abs=0.02)


def test_adaptive_sparsity_breaks_twice_what_fixed_sparsity_does(trained):
    net, x, y = trained
    threat = ThreatModel("l1", 3.0)
    fixed = robust(net, pgd(net, x, y, threat, steps=100, restarts=2, generator=seeded()), x, y, threat)
    adaptive = robust(net, run(net, x, y, threat, steps=100), x, y, threat)
    assert 1 - adaptive > 2 * (1 - fixed)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_optimum_of_a_linear_model_is_reached(num_classes):
    """At the optimum, the pixels with the largest weights move to the edge of the box, until eps is used up."""
    net, eps = linear(num_classes, 3, 4, 4), 2.0
    x = torch.rand(40, 3, 4, 4, generator=seeded())
    y = net(x).argmax(1)
    target = wrong_classes(net(x), y)[:, 0]
    weight = net[1].weight[target] - net[1].weight[y]
    room = torch.where(weight > 0, 1 - x.flatten(1), x.flatten(1))
    order = weight.abs().argsort(1, descending=True)
    spent = room.gather(1, order).cumsum(1).clamp_max(eps).diff(dim=1, prepend=torch.zeros(40, 1))
    best = (weight.abs().gather(1, order) * spent).sum(1)

    def gap(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

    x_adv = run(net, x, y, ThreatModel("l1", eps), gap, 100, target=target, early_stop=False)
    gained = gap(net(x_adv), y, target) - gap(net(x), y, target)
    assert (gained <= best + 1e-5).all(), "nothing beats the optimum"
    assert (gained >= 0.95 * best).all()
    assert (gained / best).mean() > 0.99


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 30])
@pytest.mark.parametrize("early_stop", [True, False])
def test_the_result_is_inside_ball_and_box_after_any_number_of_steps(trained, steps, early_stop):
    net, x, y = trained
    x, y = x[:20].clone(), y[:20]
    x[0], x[1] = 0, 1
    pixels, counting = x.clone(), Counting(net)
    x_adv = run(counting, x, y, steps=steps, early_stop=early_stop)
    assert torch.equal(x, pixels)
    assert (x_adv.double() - x).abs().flatten(1).sum(1).max() <= 2 + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (cross_entropy(net(x_adv), y) > cross_entropy(net(x), y)).float().mean() > 0.7
    assert counting.passes <= steps + (3 if steps > 2 else 1), "one extra forward pass for the start of each ball"


def test_early_stop_breaks_the_same_samples_for_less(trained):
    net, x, y = trained
    stopping, whole = Counting(net), Counting(net)
    stopped, kept = run(stopping, x, y), run(whole, x, y, early_stop=False)
    fooled = misclassified(net(stopped), y)
    assert robust(net, stopped, x, y, THREAT) <= robust(net, kept, x, y, THREAT)
    assert whole.images == 53 * len(x)
    assert stopping.images < 0.9 * whole.images
    assert 0.3 < fooled.float().mean() < 0.95
    # Samples that stay robust follow the same path in the smaller batch, except for rounding.
    assert ((stopped - kept)[~fooled].abs().flatten(1).amax(1) < 1e-4).float().mean() > 0.9


def test_a_point_of_a_larger_ball_fools_nobody(trained):
    """No image inside the small ball fools the model, although many outside it do."""
    net, x, y = trained
    threat = ThreatModel("l1", 0.02)
    x_adv = run(net, x, y, threat)
    assert threat.distance(x_adv, x).max() <= 0.02 + 1e-6
    assert robust(net, x_adv, x, y, threat) > 0.95


def test_a_start_that_fools_is_the_result(trained):
    net, x, y = trained
    start = run(net, x, y, steps=100)
    fooled = misclassified(net(start), y)
    counting = Counting(net)
    x_adv = run(counting, x[fooled], y[fooled], start=start[fooled])
    torch.testing.assert_close(x_adv, start[fooled], rtol=0, atol=1e-5)
    assert counting.passes == 1


def test_the_clean_image_is_no_worse_a_start_than_noise(trained):
    """From the clean image, no pixel has changed yet, so the attack cannot derive its sparsity from the start."""
    net, x, y = trained
    from_clean, from_noise = run(net, x, y, start=x), run(net, x, y)
    assert robust(net, from_clean, x, y, THREAT) == pytest.approx(robust(net, from_noise, x, y, THREAT), abs=0.04)


def test_the_seed_alone_decides(trained):
    net, x, y = trained
    first, again, other = (run(net, x[:20], y[:20], steps=10, seed=seed, loss=dlr) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_steps_are_refused(trained):
    with pytest.raises(InputError, match=r"apgd\(steps=0, restarts=1\): give 1 or more"):
        run(*trained, steps=0)
