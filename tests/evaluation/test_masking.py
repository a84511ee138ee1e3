"""If robust accuracy under `fast` is several points too high, its checks say so; otherwise they report nothing."""

from functools import cache

import pytest
import torch
from torch import nn

from experiments.contests import masked
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.checks._check import nearest
from robustcls.evaluation.checks.black_box_wins import black_box_wins
from robustcls.evaluation.checks.more_steps import more_steps as check_more_steps
from robustcls.evaluation.suites import fast
from tests.helpers.eval_models import make_engine, train_digits

pytestmark = pytest.mark.whole_checks

LINF = ThreatModel("linf", 0.2)
LEVEL = "the network, whose last bits differ by processor, came out such that version 1 is not fooled"
digits_net = cache(masked.digits_net)  # trained once


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "eps", "n"), [("fgsm", 0.2, 300), ("pgd(steps=5)", 0.1, 60)])
def test_fast_says_where_it_is_too_high(spec, eps, n):
    model, threat = digits_net(spec, eps), ThreatModel("linf", eps)
    x, y = digits("test", size=8).batch()
    with frozen(model):
        engine = make_engine(model, x[:n], y[:n], threat, batch_size=128)
        outcome = run_cascade(engine, fast("linf", version=1))
        checks = [check(engine, outcome) for check in (black_box_wins, check_more_steps)]
        better = run_cascade(make_engine(model, x[:n], y[:n], threat, batch_size=128), fast("linf", version=2))
    masks = spec == "fgsm"
    if masks and outcome.robust.sum() - better.robust.sum() < 2:
        pytest.skip(LEVEL)
    assert any(check.status in ("warn", "fail") for check in checks) == masks, checks
    assert all("points at least" in check.message for check in checks)


@pytest.mark.parametrize("seed", [0, 1])
def test_fast_1_overrates_a_model_that_masks_gradients_and_fast_2_does_not(seed):
    """The model is trained with FGSM; of 300 samples, version 1 leaves four to seven more robust than version 2."""
    model, (x, y) = digits_net("fgsm", 0.2), digits("test", size=8).batch()
    left = {}
    for version in (1, 2):
        with frozen(model):
            engine = make_engine(model, x[:300], y[:300], LINF, batch_size=128, seed=seed)
            outcome = run_cascade(engine, fast("linf", version=version))
        left[version] = int(outcome.robust.sum())
    assert left[2] <= left[1] + 1
    if left[2] > left[1] - 2:
        pytest.skip(LEVEL)


class Stepped(nn.Module):
    """A model whose logits are rounded to steps, so that there is no gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        logits = self.net(x)
        return logits + ((logits * 50).round() / 50 - logits).detach() - (logits - logits.detach())


def test_fast_2_breaks_what_has_no_gradient():
    plain = train_digits()
    x, y = digits("test", size=8).batch()
    robust = {}
    for name, model in (("plain", plain), ("stepped", Stepped(plain))):
        for version in (1, 2):
            with frozen(model):
                engine = make_engine(model, x[:60], y[:60], LINF, batch_size=64)
                robust[name, version] = int(run_cascade(engine, fast("linf", version=version)).robust.sum())
    assert robust["stepped", 1] > robust["plain", 1] + 15, "the masked model looks robust"
    assert robust["stepped", 2] <= robust["plain", 2] + 3, "Square goes on with samples where it gains"


def more_steps(attacks, threat=LINF, n=60, surrogate=None):
    model, (x, y) = train_digits(), digits("test", size=8).batch()
    with frozen(model):
        engine = make_engine(model, x[:n], y[:n], threat, batch_size=64, surrogate=surrogate)
        outcome = run_cascade(engine, attacks)
        check = check_more_steps(engine, outcome)
    return check


def test_attacks_that_had_not_converged_are_named():
    found = more_steps(["pgd(steps=2, step_size=0.02, random_start=False)"])
    assert found.status == "warn", "only a warning, because the user chose so weak an attack"
    assert "broke 4 of the nearest 4 samples" in found.message, "more steps break samples that two steps left"
    assert "have not converged: run the suite standard" in found.message


def test_where_the_check_of_more_steps_does_not_run():
    assert "took 100 steps" in more_steps(["apgd_ce", "fgsm"]).message
    assert "eps is 0" in more_steps(["pgd"], ThreatModel("linf", 0)).message
    assert "anything wins" in more_steps(["pgd"], ThreatModel("linf", 1)).message
    assert "no attack used gradients" in more_steps(["noise"]).message
    assert "another model's" in more_steps(["pgd"], surrogate=train_digits(epochs=1)).message
    assert more_steps(["pgd(steps=20)"], ThreatModel("linf", 0.9)).status == "not_run"


def test_the_nearest_are_those_of_the_largest_margin():
    model, threat = digits_net("fgsm", 0.2), ThreatModel("linf", 0.02)
    x, y = digits("test", size=8).batch()
    with frozen(model):
        engine = make_engine(model, x[:60], y[:60], threat, batch_size=64)
        outcome = run_cascade(engine, ["pgd(steps=3)"])
        standing = outcome.robust.nonzero().squeeze(1)
        met = nearest(engine, outcome, standing, 5)
    others = standing[~torch.isin(standing, met)]
    assert len(met) == 5
    assert met.tolist() == sorted(met.tolist())
    assert outcome.margin[met].min() >= outcome.margin[others].max()
