"""Where `fast` is points too high, its checks say so; where it is not, they are silent."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustcls.core import plugins
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.data.digits import digits
from robustcls.evaluation.attack_checks import doubled_targets
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.diagnostics import check_black_box
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.nearest import nearest
from robustcls.evaluation.suites import fast

WIDER = "apgd_t(steps=20, targets=9, restarts=8, closest=0.5)"


def trained(spec: str, eps: float) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    (x, y), attack = digits("train", size=8).batch(), plugins.load("attack", spec)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            with frozen(net):
                x_adv = attack(net, x[rows], y[rows], ThreatModel("linf", eps))
            optimizer.zero_grad()
            F.cross_entropy(net(x_adv), y[rows]).backward()
            optimizer.step()
    return net.eval()


@pytest.mark.parametrize(("spec", "eps", "n"), [("fgsm", 0.2, 400), ("pgd(steps=5)", 0.1, 120)])
def test_fast_says_where_it_is_too_high(spec, eps, n):
    model, threat = trained(spec, eps), ThreatModel("linf", eps)
    x, y = digits("test", size=8).batch()
    with frozen(model):
        engine = Engine(model, x[:n], y[:n], batch_size=128)
        outcome = run_cascade(engine, threat, fast("linf"))
        standing = outcome.standing(engine.y).nonzero().squeeze(1)
        attack, _ = engine.load(WIDER)
        lost = sum(int(found.fooled.sum()) for found in engine.attack(attack, standing, threat, (1,)))
        checks = [check(engine, outcome, threat, fast("linf")) for check in (check_black_box, doubled_targets)]
    masks = spec == "fgsm"
    assert (lost / n > 0.01) == masks, "what a wider attack takes of the survivors"
    assert any(check.status in ("warn", "fail") for check in checks) == masks, checks
    assert all("points at least" in check.message for check in checks)


def test_the_nearest_are_those_of_the_largest_margin():
    model, threat = trained("fgsm", 0.2), ThreatModel("linf", 0.02)
    x, y = digits("test", size=8).batch()
    with frozen(model):
        engine = Engine(model, x[:60], y[:60], batch_size=64)
        outcome = run_cascade(engine, threat, ["pgd(steps=3)"])
        standing = outcome.standing(engine.y).nonzero().squeeze(1)
        met = nearest(engine, outcome, standing, 5)
    others = standing[~torch.isin(standing, met)]
    assert len(met) == 5
    assert met.tolist() == sorted(met.tolist())
    assert outcome.margin[met].min() >= outcome.margin[others].max()
