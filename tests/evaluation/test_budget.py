"""A report keeps its time budget: what is measured first, what fits, and what is said of the rest."""

import math

import pytest
import torch
from torch import nn

from robustcls.attribution.measures.trust import FORWARDS, MAPS
from robustcls.core.errors import InputError
from robustcls.core.measures import measures
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import as_attacks
from robustcls.evaluation.budget import Budget, check_holds, even_share, fitting_samples, kept_counts, minutes_of
from robustcls.evaluation.checks import thorough_checks
from robustcls.evaluation.checks.black_box_wins import black_box_wins
from robustcls.evaluation.checks.more_steps import more_steps
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.measures.explanations import measure as explanations
from robustcls.evaluation.measures.gallery import measure as gallery
from robustcls.evaluation.pace import Pace, measure_pace
from robustcls.results.policy import Policy
from robustcls.results.policy import judge as decide
from robustcls.results.records import Check, Evaluation
from tests.helpers.clock import Clock
from tests.helpers.eval_models import completed, evaluated, make_batch, make_net

pytestmark = pytest.mark.whole_checks


@pytest.mark.parametrize(
    ("total", "needs", "share"),
    [(10, [1, 2, 3], math.inf), (10, [1, 2, 30], 7), (9, [30, 30, 30], 3), (10, [1, 30, 30], 4.5), (0, [1], 0)],
)
def test_small_needs_are_met_and_the_rest_is_shared_equally(total, needs, share):
    assert even_share(total, needs) == share
    assert sum(min(need, share) for need in needs) <= total


def test_a_budget_holds_as_many_samples_as_the_time_that_is_left():
    clock = Clock()
    budget = Budget(1, clock=clock)  # 54 seconds, because a tenth is held back
    assert budget.fitting("maps_n", 20, 2.0) == 20
    assert budget.fitting("maps_n", 100, 2.0) == 27
    assert budget.fitting("maps_n", 100, 2.0, [200.0]) == 13
    assert budget.fitting("maps_n", 100, 2.0, [4.0]) == 25
    clock.now += 50
    assert budget.fitting("maps_n", 100, 2.0) == 2
    clock.now += 50
    assert (budget.left(), budget.fitting("maps_n", 100, 2.0)) == (0, 0)
    assert Budget(None, clock=clock).fitting("maps_n", 10**6, 10.0) == 10**6


def test_a_count_that_was_given_wins_over_the_budget_of_a_profile():
    clock = Clock()
    assert Budget(1, kept_counts({"curves_n"}), clock).fitting("curves_n", 100, 60.0) == 100
    assert Budget(1, kept_counts({"curves_n", "minutes"}), clock).fitting("curves_n", 100, 60.0) == 0
    assert kept_counts({"n", "maps_n", "minutes"}) == {"n"}


def test_the_profile_quick_has_two_minutes_at_32_pixels_and_five_at_224():
    quick, standard = ReportConfig(profile="quick"), ReportConfig()
    assert [minutes_of(quick, (side, side)) for side in (8, 32, 128, 224, 384)] == [2, 2, 3.5, 5, 5]
    assert minutes_of(standard, (32, 32)) is None
    assert minutes_of(ReportConfig(profile="full"), (32, 32)) is None
    assert minutes_of(ReportConfig(profile="quick", minutes=0.5), (224, 224)) == 0.5


@pytest.mark.parametrize("minutes", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_no_time_is_refused(minutes):
    with pytest.raises(InputError, match="`minutes="):
        ReportConfig(minutes=minutes)


def test_fewer_samples_are_attacked_where_the_budget_asks_for_it():
    pace = Pace(forward=0.1, gradient=1.0, maps={"saliency": 1.0})
    config = ReportConfig(
        profile="quick", examples=0, maps_n=0, curves_n=0, minimum_n=0, corruptions_n=0, checks="passive"
    )
    clock, attacks = Clock(), as_attacks("apgd_ce(steps=20)")
    each = pace.of_attacks(attacks, curve=False, checks=False)
    assert fitting_samples(Budget(2, clock=clock), pace, config, attacks, 100, curve=False)[0] == int(108 / each)
    assert fitting_samples(Budget(2, ("n",), clock), pace, config, attacks, 100, curve=False)[0] == 100
    assert fitting_samples(Budget(None, clock=clock), pace, config, attacks, 100, curve=False)[0] == 100
    config.maps_n = 1000  # maps need time, too
    assert fitting_samples(Budget(2, clock=clock), pace, config, attacks, 100, curve=False)[0] == max(4, int(54 / each))


class Slow(nn.Module):
    """A network with a fake clock: one second per image forward, two seconds backward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = [clock]
        self.layer = nn.Linear(4, 3)

    def __deepcopy__(self, memo):
        raise RuntimeError("one of a kind")

    def forward(self, x):
        self.clock[0].now += len(x)
        logits = self.layer(x.mean((1, 2))[:, :4])
        if logits.requires_grad:
            logits.register_hook(lambda grad: setattr(self.clock[0], "now", self.clock[0].now + 2 * len(grad)))
        return logits


def test_the_pace_is_measured_by_the_clock():
    clock = Clock()
    model = Slow(clock).train()
    pace = measure_pace(model, torch.rand(5, 3, 4, 4), ["saliency"], clock=clock)
    assert (pace.forward, pace.gradient) == (1, 3)
    assert pace.maps["saliency"] == 1 + 1 + (1 + 2)  # predictions, number of classes, gradient
    assert model.training
    assert explanations.seconds(pace) == pytest.approx(MAPS * 5 + FORWARDS)


@pytest.fixture
def parts(monkeypatch):
    """Replace the measures by fakes that take as long as PACE predicts; return the clock and the numbers of samples."""
    clock, took = Clock(), {}

    def fake(one):
        def run(*_, n, **__):
            took[one.key] = n
            clock.now += n * one.load().seconds(PACE)

        return run

    for one in measures():
        monkeypatch.setattr(one.load(), "measure", fake(one) if one.count else lambda *_, **__: None)
    return clock, took


PACE = Pace(forward=0.001, gradient=0.01, maps={"saliency": 0.02})
EVERYTHING = ReportConfig(examples=10, maps_n=10, curves_n=20, minimum_n=20, corruptions_n=20, minutes=2, quiet=True)


@pytest.fixture
def judged():
    x, y = make_batch(20)
    return evaluated(make_net(), x, y, ThreatModel("linf", 0.01), ["fgsm"], precision="fp32", batch_size=20)


def finish(judged, budget, config=EVERYTHING):
    said: list[str] = []
    completed(judged, make_net(), config, ["saliency"], budget=budget, pace=PACE, say=said.append)
    return judged.evaluation, said


def test_a_part_that_does_not_fit_is_measured_on_fewer_samples_and_says_so(judged, parts):
    clock, took = parts
    began = clock.now
    found, said = finish(judged, Budget(2, clock=clock))
    assert clock.now - began <= 120
    assert took["gallery"] == 10  # cheap measures use all samples
    assert 4 <= took["other_curves"] < 20
    assert found.reduced["other_curves"] == (
        f"reduced from n = 20 to n = {took['other_curves']} to keep the budget of 2 minutes"
    )
    assert "gallery" not in found.reduced
    assert any(line.startswith("attribution maps of examples: 10 samples, about ") for line in said)
    assert any(found.reduced["other_curves"] in line for line in said)
    assert Evaluation.from_json(found.to_json()).reduced == found.reduced


def test_a_part_that_does_not_fit_at_all_is_left_out_with_its_reason(judged, parts):
    clock, took = parts
    found, said = finish(judged, Budget(0.2, clock=clock))
    assert "other_curves" not in took
    assert "left out to keep the budget of 0.2 minutes: it takes about 2 min 10 s" in found.not_run["other_curves"]
    assert any(line.startswith("security curves in other norms: left out") for line in said)
    assert found.other_curves is None


def test_without_a_budget_all_is_measured_and_what_it_takes_is_said(judged, parts):
    _, took = parts
    found, said = finish(judged, None)
    right = found.clean.correct
    assert took == {"gallery": 10, "stability": min(10, right), "other_curves": 20, "minimum": 20, "corruptions": 20}
    assert found.reduced == {}
    assert any(line == "security curves in other norms: 20 samples, about 2 min 10 s" for line in said)


def test_what_took_longer_than_said_is_taken_off_the_parts_that_follow(judged, parts, monkeypatch):
    clock, took = parts

    def late(*_, **__):
        clock.now += 1000

    monkeypatch.setattr(gallery, "measure", late)
    found, _ = finish(judged, Budget(2, clock=clock))
    assert took == {}
    for section in ("stability", "other_curves", "minimum", "corruptions"):
        assert "0 s are left" in found.not_run[section]


def judge_in_time(minutes, attacks, n=8, **options):
    """Evaluate a network with a fake clock, as a report with a budget does; return the evaluation and its seconds."""
    clock = Clock()
    model, x = Slow(clock).eval(), torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    budget, began = Budget(minutes, clock=clock, after=Pace(1, 3).of_checks(n)), clock.now
    found = evaluated(
        model, x, y, ThreatModel("linf", 1e-6), attacks, precision="fp32", batch_size=4, budget=budget,
        **options,
    )  # fmt: skip
    return found.evaluation, clock.now - began


def test_attacks_stop_when_the_budget_is_used_up_and_the_evaluation_says_so():
    found, took = judge_in_time(5, ["fgsm", "pgd(steps=1000)", "pgd(steps=900)"])
    assert took < 300
    assert found.robust.correct == 8
    fgsm, long, after = found.attacks
    assert not fgsm.error
    reason = "stopped by the budget of 5 minutes: give more with --minutes; 8 of 8 samples were not attacked to the end"
    assert long.error == after.error == reason
    assert Evaluation.from_json(found.to_json()).attacks[1].error == reason
    verdict = decide(found, Policy(min_robust=0.1))
    assert verdict.status == "INCONCLUSIVE"
    assert any("stopped by the budget" in one for one in verdict.reasons)


def test_what_was_attacked_before_the_budget_was_used_up_is_kept():
    found, _ = judge_in_time(11, ["pgd(steps=20)"])  # four of eight samples fit
    assert "; 4 of 8 samples were not attacked to the end" in found.attacks[0].error
    free, _ = judge_in_time(None, ["pgd(steps=20)"])
    assert not free.attacks[0].error


def test_self_checks_and_curves_stop_with_the_budget():
    found, took = judge_in_time(5, ["pgd(steps=1000)"], checks=thorough_checks(), eps_grid=[0, 1e-6, 0.1, 0.2])
    assert took < 300
    assert found.curve is None
    assert "stopped by the budget of 5 minutes" in found.not_run["curves"]
    checks = {check.id: check for check in found.checks}
    assert checks["doubled_steps"].status == "not_run"
    assert "stopped by the budget" in checks["doubled_steps"].message


def test_a_curve_that_is_cut_off_says_so(monkeypatch):
    for check in (black_box_wins, more_steps):  # these checks attack, which takes longer than the rest
        monkeypatch.setattr(check, "function", lambda *_: Check("one", "not_run", None, None, ""))
    cut, took = judge_in_time(20, ["pgd(steps=4)"], eps_grid=[0, *(radius * 1e-6 for radius in range(1, 12))])
    assert took < 1200
    assert 1 < len(cut.curve) < 12
    assert "radii are missing: stopped by the budget" in cut.reduced["curves"]


def test_a_budget_that_does_not_hold_one_step_of_each_attack_is_refused():
    pace, attacks = Pace(forward=1.0, gradient=3.0), as_attacks(["fgsm", "pgd(steps=1000)"])
    each = pace.of_attacks(attacks, curve=False, checks=False)
    with pytest.raises(
        InputError, match="the budget of 0.4 minutes is too little for net.pt.*28 s.*`minutes="
    ) as caught:
        check_holds(Budget(0.4, clock=Clock()), pace, attacks, 4, each, "net.pt")
    enough = float(str(caught.value).partition("`minutes=")[2].partition("`")[0])
    assert Budget(enough, clock=Clock()).left() >= 4 * each
    check_holds(Budget(1, clock=Clock()), pace, attacks, 4, each, "net.pt")  # although all steps would take hours
    with pytest.raises(InputError, match="too little"):
        check_holds(Budget(1, clock=Clock(), spent=50), pace, attacks, 4, each, "net.pt")
    with pytest.raises(InputError, match="fewer samples with `n`"):
        check_holds(Budget(1, {"n"}, Clock()), pace, attacks, 100, each, "net.pt")
    check_holds(Budget(1, {"n"}, Clock(), stops=False), pace, attacks, 100, each, "net.pt")
    check_holds(Budget(None, clock=Clock()), pace, attacks, 10**6, each, "net.pt")
