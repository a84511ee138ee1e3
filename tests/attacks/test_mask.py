"""Masks and 8-bit examples: attacks that support them keep to them, which is verified; other attacks refuse them."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks.pgd import pgd
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of

ALLOWED = torch.zeros(6, 6, dtype=torch.bool)
ALLOWED[1:4, 2:5] = True
OUTSIDE, CORNER = ~ALLOWED, ALLOWED.roll((2, -2), (0, 1))
RADII = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
MASKED = [name for name in plugins.names("attack") if traits_of(plugins.load("attack", name)).mask]
OTHERS = [name for name in plugins.names("attack") if name not in MASKED]
SHORT = {"steps": 8, "queries": 60, "draws": 4}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=20):
    """Return images off the 8-bit grid, far enough from the edge of the box that no linf ball here reaches it."""
    return 0.2 + 0.6 * torch.rand(n, 2, 6, 6, generator=seeded())


def linear(classes=3):
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(len(parameter.shape))))
    return net


def short(name):
    known = plugins.resolved("attack", name)
    return str(plugins.Spec(name, (), tuple((key, value) for key, value in SHORT.items() if key in known)))


def cases():
    for name, norm in itertools.product(MASKED, [*RADII, "l0"]):
        knows_l0 = traits_of(plugins.load("attack", name)).l0
        if name != "apgd_reject" and knows_l0 == (norm == "l0"):
            yield pytest.param(name, norm, id=f"{name}-{norm}")


def test_which_attacks_keep_to_a_mask():
    assert {"apgd_ce", "apgd_pm", "apgd_t", "fgsm", "malt", "noise", "pgd", "square", "sigma_zero"} <= set(MASKED)
    assert {"fab_t", "ddn", "cw", "patch", "min_apgd"} <= set(OTHERS)


@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_nothing_changes_outside_the_mask_and_something_inside(name, norm):
    net, x = linear(), images()
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = ThreatModel(norm, RADII.get(norm, 9), ALLOWED)
    x_adv = robustcls.attack(net, x, y, threat, short(name))
    assert torch.equal(x_adv[..., ~ALLOWED], x[..., ~ALLOWED])
    assert (x_adv[..., ALLOWED] != x[..., ALLOWED]).any()
    free = robustcls.attack(net, x, y, replace(threat, mask=None), short(name))
    assert (free[..., ~ALLOWED] != x[..., ~ALLOWED]).any(), "without the mask, pixels outside it change"


@pytest.mark.parametrize("name", OTHERS)
def test_an_attack_that_cannot_keep_to_a_mask_is_refused(name):
    x = images(2)
    with pytest.raises(InputError, match="does not know a mask"):
        robustcls.attack(linear(), x, torch.zeros(2, dtype=torch.int64), ThreatModel("linf", 1, ALLOWED), name)


@pytest.mark.parametrize("mask", [OUTSIDE, CORNER], ids=["most", "few"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_a_linear_model_falls_exactly_where_the_dual_norm_of_the_allowed_weights_says(norm, dual, mask):
    """With two classes, the margin can fall by eps times the dual norm of the weights inside the mask."""
    net, x = linear(2), 0.5 + 0.05 * torch.randn(200, 2, 6, 6, generator=seeded(3))
    with torch.no_grad():
        net[1].bias.sub_(net(x).mean(0))  # so that no pixel needs to reach the edge of the box
        logits = net(x)
    y, w = logits.argmax(1), net[1].weight[1] - net[1].weight[0]
    way = (logits[:, 1] - logits[:, 0]).abs() / torch.linalg.vector_norm(w.view(2, 6, 6)[:, mask], dual)
    eps = way.median().item()
    assert torch.linalg.vector_norm(w, dual) > 1.02 * torch.linalg.vector_norm(w.view(2, 6, 6)[:, mask], dual)
    result = robustcls.evaluate(net, x, y, ThreatModel(norm, eps, mask), attacks=["apgd_ce(steps=40)"])
    success = result.examples.success
    assert not success[way > 1.001 * eps].any()
    assert success[way < 0.97 * eps].float().mean() > 0.97


def test_the_fewest_values_inside_a_mask_by_brute_force():
    """The nearest adversarial image of a linear model in l0 changes the allowed values that gain most."""
    net, x = linear(2), images(150)
    few = torch.zeros(6, 6, dtype=torch.bool)
    few[1, 1:4] = True
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    side = 1 - 2 * y.view(-1, 1).float()  # direction in which the logit difference must change
    w = (net[1].weight[1] - net[1].weight[0])[None] * side
    gain = (w.clamp_min(0) * (1 - x.flatten(1)) + (-w).clamp_min(0) * x.flatten(1)) * few.expand(2, 6, 6).flatten()
    most = gain.sort(dim=1, descending=True).values.cumsum(1)
    gap = (logits[:, 1] - logits[:, 0]).abs()
    fewest = (most < gap[:, None]).sum(1) + 1
    possible = fewest <= 6
    threat = ThreatModel("l0", 6, few)
    x_adv = robustcls.attack(net, x, y, threat, "sigma_zero(steps=300)")
    broken = net(x_adv).argmax(1) != y
    assert not broken[~possible].any()
    assert (~possible).any()
    assert possible.sum() > 20
    assert broken[possible].all()
    found = threat.distance(x_adv, x)[possible]
    assert (found >= fewest[possible]).all()
    assert (found <= fewest[possible] + 1).float().mean() > 0.8


class Recorded(nn.Module):
    """A network that records its input images."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.net(x)


@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_every_image_that_the_model_is_asked_about_keeps_to_the_mask(name, norm):
    """Otherwise an attack would rely on pixels that it may not change, and applying the mask would undo its result."""
    net, x = Recorded(linear()), images(6)
    with torch.no_grad():
        y = net.net(x).argmax(1)
    attack, threat = plugins.load("attack", short(name)), ThreatModel(norm, RADII.get(norm, 9), ALLOWED)
    attack(net, x, y, threat, generator=seeded())
    kept, seen = ({row.numpy().tobytes() for row in rows[..., ~ALLOWED]} for rows in (x, torch.cat(net.seen)))
    assert seen <= kept


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_square_uses_up_the_ball_within_the_mask(norm):
    """The budget that the mask removes from a proposal is available to the next one."""
    net, x = linear(), images(40)
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = ThreatModel(norm, RADII[norm], ALLOWED)
    x_adv = robustcls.attack(net, x, y, threat, "square(queries=150, early_stop=False)")
    assert (threat.distance(x_adv, x) / threat.eps).median() > 0.9


@pytest.mark.parametrize("norm", RADII)
def test_the_dual_norm_is_what_a_linear_loss_gains_within_the_mask(norm):
    grad = torch.randn(30, 2, 6, 6, generator=seeded())
    threat = ThreatModel(norm, 1, ALLOWED)
    inside = grad[..., ALLOWED].flatten(1)
    gains = {"linf": inside.abs().sum(1), "l2": inside.norm(dim=1), "l1": inside.abs().amax(1)}
    torch.testing.assert_close(threat.dual(grad), gains[norm])


def test_one_value_outside_the_mask_is_seen_in_whatever_channel():
    x = images(4)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] += 0.01
    x_adv[1, 1, 5, 5] -= 0.01
    x_adv[2, :, 1, 2] += 0.01
    assert ThreatModel("linf", 0.1, ALLOWED).keeps_mask(x_adv, x).tolist() == [False, False, True, True]


def leaves(model, x, y, threat):
    """A user's attack that changes pixels outside the mask."""
    return pgd(model, x, y, replace(threat, mask=None), early_stop=False)


def test_an_attack_of_ones_own_that_leaves_the_mask_succeeds_nowhere():
    net, x = linear(), images()
    with torch.no_grad():
        y = net(x).argmax(1)
    free = robustcls.evaluate(net, x, y, "linf:0.1", attacks=[leaves])
    assert free.robust.accuracy < 1
    with pytest.warns(UserWarning, match="20 changed outside the mask"):
        robustcls.attack(net, x, y, ThreatModel("linf", 0.1, ALLOWED), leaves)
    kept = robustcls.evaluate(net, x, y, ThreatModel("linf", 0.1, ALLOWED), attacks=[leaves])
    assert kept.robust.accuracy == 1
    check = next(one for one in kept.checks if one.id == "attempts_outside")
    assert check.status in ("warn", "fail")


def test_within_a_mask_no_radius_allows_every_image():
    net, x = linear(), images(6)
    assert ThreatModel("linf", 1).is_whole_box
    assert not ThreatModel("linf", 1, ALLOWED).is_whole_box
    y = torch.zeros(6, dtype=torch.int64)
    found = robustcls.evaluate(net, x, y, "linf:0.1", attacks=["fgsm"], mask=ALLOWED, minimum_n=2, checks=[])
    assert found.minimum is None
    assert "a mask lets only a part of it change" in found.not_run["minimum"]


def test_a_mask_of_every_pixel_changes_nothing():
    net, x = linear(), images()
    with torch.no_grad():
        y = net(x).argmax(1)
    everything = torch.ones(6, 6, dtype=torch.bool)
    for name in ("pgd(steps=5)", "square(queries=50)", "apgd_t(steps=5)"):
        # In l2 and l1, square sums the used part of the ball differently if there is a mask.
        for norm, eps in list(RADII.items())[: 1 if name.startswith("square") else 3]:
            ours = robustcls.attack(net, x, y, ThreatModel(norm, eps, everything), name)
            assert torch.equal(ours, robustcls.attack(net, x, y, ThreatModel(norm, eps), name))


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("mask", [None, ALLOWED])
def test_examples_in_8_bits_are_whole_levels_inside_the_ball(norm, mask):
    net, x = linear(), images(40)
    with torch.no_grad():
        y = net((x * 255).round() / 255).argmax(1)
    threat = ThreatModel(norm, RADII[norm] / 2, mask, eight_bit=True)
    result = robustcls.evaluate(net, x, y, threat, attacks=["apgd_ce(steps=20)", "square(queries=100)"])
    examples = result.examples
    assert result.threat.eight_bit
    assert examples.success.any()
    found, clean = examples.x_adv[examples.success], examples.x[examples.success]
    assert torch.equal((found * 255).round() / 255, found)
    assert torch.equal((clean * 255).round() / 255, clean)
    assert (threat.distance(found, clean) <= threat.eps + 1e-6).all()
    assert (net(found).argmax(1) != y[examples.success]).all()


def test_what_rounding_undoes_is_no_example_in_8_bits():
    """A model that detects values between the 8-bit levels is broken by float images, but never by 8-bit images."""

    class BetweenLevels(nn.Module):
        def forward(self, x):
            off = ((x * 255 - (x * 255).round()).abs() - 0.1).flatten(1).amax(1)
            return torch.stack([-off, off], 1)

    x = torch.randint(60, 200, (10, 1, 6, 6), generator=seeded()) / 255
    y = torch.zeros(10, dtype=torch.int64)
    for eight_bit, robust in ((False, 0.0), (True, 1.0)):
        threat = ThreatModel("linf", 2 / 255, eight_bit=eight_bit)
        assert robustcls.evaluate(BetweenLevels(), x, y, threat, attacks=["noise"]).robust.accuracy == robust


@pytest.mark.parametrize("norm", RADII)
def test_at_another_radius_the_limits_are_the_same(norm):
    """`at`, which security curves and self-checks use, keeps the mask and the 8-bit limit."""
    for eight_bit in (False, True):
        assert ThreatModel(norm, 0.1, ALLOWED, eight_bit).at(0.05) == ThreatModel(norm, 0.05, ALLOWED, eight_bit)


def test_attacks_search_where_whole_levels_lie_from_clean_images_in_8_bits():
    given = []

    def own(model, x, y, threat):
        given.append((threat.eps, torch.equal((x * 255).round() / 255, x)))
        return x

    net, x, y = linear(), images(8), torch.zeros(8, dtype=torch.int64)
    for eight_bit, expected in ((False, (2.6 / 255, False)), (True, (2 / 255, True))):
        given.clear()
        threat = ThreatModel("linf", 2.6 / 255, eight_bit=eight_bit)
        robustcls.attack(net, x, y, threat, own)
        robustcls.evaluate(net, x, net(x).argmax(1), threat, attacks=[own], checks=[])
        assert [(pytest.approx(expected[0]), expected[1])] * len(given) == given
        assert len(given) == 2


def test_options_of_evaluate_and_of_the_threat_model_mean_the_same():
    net, x = linear(), images()
    y = torch.zeros(20, dtype=torch.int64)
    one = robustcls.evaluate(net, x, y, "linf:0.1", attacks=["pgd(steps=3)"], mask=ALLOWED, eight_bit=True)
    two = robustcls.evaluate(net, x, y, ThreatModel("linf", 0.1, ALLOWED, True), attacks=["pgd(steps=3)"])
    assert one.threat == two.threat
    assert one.threat.mask.pixels == 9
    assert one.threat.mask.total == 36
    assert one.robust == two.robust


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(5, 6, dtype=torch.bool), "5 x 6 pixels, the images 6 x 6"),
        (torch.zeros(6, 6, dtype=torch.bool), "lets no pixel change"),
        (torch.ones(6, 6), "give a bool tensor H,W"),
        (torch.ones(2, 6, 6, dtype=torch.bool), "give a bool tensor H,W"),
        ([[True]], "give a bool tensor H,W"),
    ],
)
def test_other_masks_are_refused(mask, message):
    x, y = images(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        robustcls.evaluate(linear(), x, y, "linf:0.1", attacks=["pgd"], mask=mask)
    with pytest.raises(InputError, match=message):
        robustcls.attack(linear(), x, y, ThreatModel("linf", 0.1, mask), "pgd")


def stops(model, x, y, threat):
    raise KeyboardInterrupt


def test_an_evaluation_that_was_cut_off_goes_on_under_the_same_limits_alone(tmp_path):
    net, x = linear(), images()
    with torch.no_grad():
        y = net(x).argmax(1)

    def run(mask, eight_bit=False):
        threat = ThreatModel("linf", 0.1, mask, eight_bit)
        robustcls.evaluate(net, x, y, threat, attacks=["pgd(steps=2)", stops], resume=tmp_path / "kept")

    for _ in range(2):  # the second run resumes the first
        with pytest.raises(KeyboardInterrupt):
            run(ALLOWED)
    for mask in (OUTSIDE, None):
        with pytest.raises(InputError, match="another mask"):
            run(mask)
    with pytest.raises(InputError, match="8 bits: repeat it"):
        run(ALLOWED, eight_bit=True)
