"""Each objective on a fixed batch against its paper's formula, written out in NumPy's float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import call

N, K = 12, 5
EPS = 0.1


def loss_of(spec, net, x, y, attack, *, done=1.0, norm="linf"):
    """Return the loss of an objective in a run of which the share `done` is complete."""
    state = SimpleNamespace(full_threat=ThreatModel(norm, EPS), share_done=done)
    return call(plugins.load("objective", spec), net, x, y, attack, state=state)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    x, noise = (torch.rand(N, 1, 4, 4, generator=generator) for _ in range(2))
    return x, torch.arange(N) % K, (0.7 * x + 0.3 * noise)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    with torch.no_grad():
        net[1].weight.mul_(6)
    return net


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def entropy(z, y, smoothing=0.0):
    target = (1 - smoothing) * np.eye(K)[y] + smoothing / K
    return -(target * np.log(softmax(z))).sum(1)


def divergence(p, q):
    return (p * np.log(p / q)).sum(1)


def by_standard(z, z_adv, y, label_smoothing=0.0):
    return entropy(z, y, label_smoothing).mean()


def by_adversarial(z, z_adv, y, mix=0.0, label_smoothing=0.0):
    return ((1 - mix) * entropy(z_adv, y, label_smoothing) + mix * entropy(z, y, label_smoothing)).mean()


def by_trades(z, z_adv, y, beta=6.0, label_smoothing=0.0):
    return (entropy(z, y, label_smoothing) + beta * divergence(softmax(z), softmax(z_adv))).mean()


def by_mart(z, z_adv, y, beta=5.0, label_smoothing=0.0):
    p, q = softmax(z), softmax(z_adv)
    rival = np.where(np.eye(K)[y] == 1, 0, q).max(1)
    boosted = entropy(z_adv, y, label_smoothing) - np.log(1 - rival)
    return (boosted + beta * divergence(p, q) * (1 - p[np.arange(N), y])).mean()


def by_alp(z, z_adv, y, weight=0.5, label_smoothing=0.0):
    entropies = (entropy(z, y, label_smoothing) + entropy(z_adv, y, label_smoothing)) / 2
    return entropies.mean() + weight * ((z - z_adv) ** 2).mean()


def by_ibp(z, z_adv, y, alpha=0.0):
    """Return the loss without certified bounds; a test below includes them."""
    return (1 - alpha) * entropy(z_adv, y).mean()


FORMULAS = {
    "standard": by_standard,
    "adversarial": by_adversarial,
    "trades": by_trades,
    "mart": by_mart,
    "alp": by_alp,
    "ibp": by_ibp,
}
GIVEN = [
    ("adversarial", {"mix": 0.5}),
    ("trades", {"beta": 1.5}),
    ("mart", {"beta": 2.0}),
    ("alp", {"weight": 2.0}),
    ("ibp", {"alpha": 0.0}),
    *((name, {"label_smoothing": 0.2}) for name in FORMULAS if name != "ibp"),
]


def test_every_objective_has_its_formula():
    assert set(FORMULAS) | {"smooth_adv"} == set(plugins.names("objective")), "smooth_adv has its own test file"


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in FORMULAS if name != "ibp"), *GIVEN])
def test_the_loss_is_the_formula(name, options, net, batch):
    x, y, x_adv = batch
    spec = f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name
    loss = loss_of(spec, net, x, y, lambda *_, **__: x_adv)
    with torch.no_grad():
        z, z_adv = (net.double()(images.double()).numpy() for images in (x, x_adv))
    assert loss.total.item() == pytest.approx(FORMULAS[name](z, z_adv, y.numpy(), **options), abs=1e-5)
    seen = z if name == "standard" else z_adv
    assert np.allclose(loss.logits.detach().numpy(), seen, atol=1e-4)
    assert loss.seen == ("clean" if name == "standard" else "adversarial")


@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "standard"])
def test_the_attack_is_made_once_with_the_papers_loss(name, net, batch):
    x, y, x_adv = batch
    asked = []

    def attack(model, images, labels, **options):
        asked.append(options.get("loss", cross_entropy))
        assert (model, images) == (net, x)
        return x_adv

    loss_of(name, net, x, y, attack)
    assert asked == [kl if name == "trades" else cross_entropy]


@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in ("mart", "ibp")])
def test_labels_as_probabilities_give_the_same_loss(name, net, batch):
    x, y, x_adv = batch
    objective = plugins.load("objective", name)
    hard, soft = (
        objective(net, x, labels, lambda *_, **__: x_adv).total for labels in (y, nn.functional.one_hot(y, K).float())
    )
    assert hard.item() == pytest.approx(soft.item(), abs=1e-6)


@pytest.mark.parametrize("name", ["mart", "ibp"])
def test_mixed_labels_are_refused_where_they_mean_nothing(name, net, batch):
    x, y, x_adv = batch
    with pytest.raises(InputError, match="one label per image"):
        loss_of(name, net, x, torch.full((N, K), 1 / K), lambda *_, **__: x_adv)


@pytest.mark.parametrize(("done", "eps"), [(0.0, 0.0), (0.1, 0.0), (0.4, 0.4 * EPS), (0.7, EPS), (0.9, EPS)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ibp_mixes_in_the_loss_of_the_worst_image_of_a_ball_that_grows(done, eps, norm, net, batch):
    """For a linear network the bounds are exact: each wrong logit gains eps times the dual norm of the weight difference."""
    x, y, x_adv = batch
    x = 0.8 * x + 0.1 if norm == "l2" else x
    loss = loss_of("ibp(alpha=0.3, warmup=0.2, ramp=0.5)", net, x, y, lambda *_, **__: x_adv, done=done, norm=norm)
    w, pixels = net[1].weight.detach().double().numpy(), x.flatten(1).double().numpy()
    with torch.no_grad():
        z, z_adv = (net.double()(images.double()).numpy() for images in (x, x_adv))
    worst = z.copy()
    for n in range(N):
        for k in range(K):
            rise = w[k] - w[y[n]]
            room = np.where(rise > 0, np.minimum(eps, 1 - pixels[n]), np.minimum(eps, pixels[n]))
            worst[n, k] += np.abs(rise) @ room if norm == "linf" else eps * np.linalg.norm(rise)
    expected = 0.7 * entropy(z_adv, y.numpy()).mean() + 0.3 * entropy(worst, y.numpy()).mean()
    assert loss.total.item() == pytest.approx(expected, abs=1e-5)
    assert set(loss.parts) == {"attacked", "certified"}


def test_ibp_trains_what_it_bounds(net, batch):
    """The gradient with respect to a weight equals finite differences."""
    x, y, x_adv = batch
    net = net.double()

    def total():
        return loss_of("ibp(alpha=1.0)", net, x.double(), y, lambda *_, **__: x_adv.double()).total

    total().backward()
    found = net[1].weight.grad[2, 5].item()
    values = []
    for step in (1e-2, -2e-2):
        with torch.no_grad():
            net[1].weight[2, 5] += step
        values.append(total().item())
    assert found == pytest.approx((values[0] - values[1]) / 2e-2, abs=1e-3)


@pytest.mark.parametrize(
    ("spec", "norm", "said"),
    [
        ("ibp(alpha=1.5)", "linf", "at most 1"),
        ("ibp(ramp=-0.5)", "linf", "at most 1 together"),
        ("ibp(warmup=0.6, ramp=0.5)", "linf", "at most 1 together"),
        ("ibp", "l1", "take linf or l2"),
    ],
)
def test_ibp_refuses_what_it_cannot_bound(spec, norm, said, net, batch):
    x, y, x_adv = batch
    with pytest.raises(InputError, match=said):
        loss_of(spec, net, x, y, lambda *_, **__: x_adv, norm=norm)


def test_mart_stays_finite_where_the_rival_is_certain(net, batch):
    x, y, x_adv = batch
    with torch.no_grad():
        net[1].weight.mul_(1e3)
    total = plugins.load("objective", "mart")(net, x, y, lambda *_, **__: x_adv).total
    total.backward()
    assert total.isfinite()
    assert net[1].weight.grad.isfinite().all()


@pytest.mark.parametrize("spec", ["standard(label_smoothing=1.0)", "adversarial(mix=-0.1)"])
def test_shares_out_of_range_are_refused(spec, net, batch):
    x, y, x_adv = batch
    with pytest.raises(InputError, match="give 0 or more"):
        plugins.load("objective", spec)(net, x, y, lambda *_, **__: x_adv)
