"""Agreement with foolbox and with AutoAttack's own code on a small trained network."""

import warnings

import pytest
import torch

import robustcls
from robustcls.core.draws import SampleGenerator
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import deeper_net, fit_digits

EPS = {"linf": 0.15, "l2": 0.8}


@pytest.fixture(scope="module")
def trained():
    """Return a net trained briefly with noise, so that attacks break half of its correct samples, and 400 test images."""
    net = deeper_net()
    x, y = fit_digits(net, epochs=12, noise=0.2)
    return net, x[:400], y[:400]


@torch.no_grad()
def accuracy(net, x, y) -> float:
    return (net(x).argmax(1) == y).float().mean().item()


def test_the_model_tells_attacks_apart(trained):
    net, x, y = trained
    assert accuracy(net, x, y) > 0.9
    for norm, eps in EPS.items():
        x_adv = robustcls.attack(net, x, y, ThreatModel(norm, eps), "pgd(steps=20)")
        assert 0.15 < accuracy(net, x_adv, y) < 0.75, norm


def foolbox_pgd(net, x, y, norm, steps, step_size, random_start, start=None):
    foolbox = pytest.importorskip("foolbox")
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=step_size, steps=steps, random_start=random_start)
    if start is not None:
        attack.get_random_start = lambda x0, epsilon: type(x0)(start)
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    return attack(peer, x, y, epsilons=EPS[norm])[1]


@pytest.mark.parametrize("norm", EPS)
def test_pgd_takes_foolboxs_steps(trained, norm):
    """The results are not bit-equal, because a sign flips where a gradient is within rounding error of 0."""
    net, x, y = trained
    step_size = EPS[norm] / 4
    spec = f"pgd(steps=5, step_size={step_size}, random_start=False, early_stop=False)"
    ours = robustcls.attack(net, x, y, ThreatModel(norm, EPS[norm]), spec)
    theirs = foolbox_pgd(net, x, y, norm, 5, step_size, False)
    assert (theirs - x).abs().amax() > 0.1
    assert ((ours - theirs).abs() < 1e-5).float().mean() > 0.999
    assert accuracy(net, ours, y) == pytest.approx(accuracy(net, theirs, y), abs=0.0026)


@pytest.mark.parametrize("norm", EPS)
def test_robust_accuracy_under_pgd_is_foolboxs(trained, norm):
    """From the same random starts, the accuracies agree within half a point. From different starts, where single runs vary by
    0.8 points, their means agree within one point."""
    net, x, y = trained
    threat, step_size = ThreatModel(norm, EPS[norm]), 2.5 * EPS[norm] / 20
    ours, same, own = [], [], []
    for seed in range(5):
        torch.manual_seed(seed)
        x_adv = robustcls.attack(net, x, y, threat, "pgd(steps=20, early_stop=False)", batch_size=400, seed=seed)
        ours.append(accuracy(net, x_adv, y))
        own.append(accuracy(net, foolbox_pgd(net, x, y, norm, 20, step_size, True), y))
        if seed < 2:
            start = threat.random_start(x, SampleGenerator.of(torch.arange(len(x)), seed))
            same.append(accuracy(net, foolbox_pgd(net, x, y, norm, 20, step_size, True, start), y))
    assert same == pytest.approx(ours[:2], abs=0.005)
    assert sum(ours) / 5 == pytest.approx(sum(own) / 5, abs=0.01)
    assert len(set(own)) > 1, "the starts are not random"


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize(("spec", "peer", "n"), [("apgd_ce", "apgd-ce", 400), ("apgd_t", "apgd-t", 100)])
def test_robust_accuracy_under_auto_pgd_is_autoattacks(trained, norm, spec, peer, n):
    """Each implementation draws its own random start; the accuracies agree within one and a half points."""
    autoattack = pytest.importorskip("pyautoattack", reason="AutoAttack's own code is not installed")
    net, x, y = trained
    x, y = x[:n], y[:n]
    name = {"linf": "Linf", "l2": "L2"}[norm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = autoattack.AutoAttack(
            net, norm=name, eps=EPS[norm], version="custom", attacks=[peer], device="cpu", seed=0
        )
        judge.apgd.n_restarts = judge.apgd_targeted.n_restarts = 1
        judge.apgd_targeted.n_target_classes = 9
        theirs = accuracy(net, judge.run_standard_evaluation(x, y, batch_size=n)[0], y)
    ours = robustcls.evaluate(net, x, y, ThreatModel(norm, EPS[norm]), attacks=[spec], precision="fp32")
    assert ours.robust.accuracy == pytest.approx(theirs, abs=0.015)


@pytest.mark.parametrize("norm", EPS)
def test_stronger_attacks_break_more(trained, norm):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    attacks = ["fgsm", "pgd(steps=20)", "apgd_ce(steps=50)", "apgd_t(steps=50)"]
    found = robustcls.evaluate(net, x[:100], y[:100], threat, attacks=attacks, alone=True, precision="fp32")
    shares = [attack.alone.accuracy for attack in found.attacks]
    assert shares[0] > shares[1] >= shares[2] - 0.01
    assert shares[2] >= shares[3] - 0.01
    assert found.robust.accuracy <= min(shares)
