"""The engine that runs an attack over many samples: batches, memory, resuming, transfer, traits."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits
from robustcls.evaluation.attacks import as_attacks, check_attacks
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.subject import Subject, Surrogate
from tests.helpers.eval_models import (
    LINF,
    judged_batch,
    make_batch,
    make_engine,
    make_net,
    met,
)

BOX = ThreatModel("linf", 1.0)


class OutOfMemory(nn.Module):
    """A model that has memory for three images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.largest = 0

    def forward(self, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(x))
        return self.net(x)


def test_a_model_that_fills_the_memory_is_judged_in_smaller_parts():
    model = OutOfMemory()
    x, y = make_batch()
    with frozen(model):
        engine = make_engine(model, x, y, LINF, batch_size=16, seed=3)
        outcome = run_cascade(engine, ["fgsm"])
    expected = judged_batch(attacks=["fgsm"], seed=3).examples
    assert model.largest == 2, "the batch size falls from 16 to 8, 4 and 2"
    assert torch.equal(outcome.breaker, expected.breaker)
    assert torch.equal(outcome.clean, expected.clean)


def test_early_stop_is_asked_for_unless_the_example_must_fool_another_model():
    met.clear()
    assert judged_batch(attacks=["tests.helpers.eval_models:stopping"]).evaluation.attacks[0].options == {
        "early_stop": True
    }
    assert set(met) == {True}
    met.clear()
    found = judged_batch(attacks=["tests.helpers.eval_models:stopping"], surrogate=make_net())
    assert found.evaluation.attacks[0].options == {"early_stop": False}
    assert set(met) == {False}
    met.clear()
    judged_batch(attacks=["tests.helpers.eval_models:stopping(early_stop=False)"])
    assert set(met) == {False}


def test_a_universal_attack_meets_all_samples_at_once():
    met.clear()
    assert judged_batch(attacks=["tests.helpers.eval_models:universal"]).evaluation.attacks[0].attacked == 45
    assert met == [45]


def test_a_minimum_norm_attack_gives_distances_and_censors_its_failures():
    found = judged_batch(attacks=["tests.helpers.eval_models:nearest"])
    x, y = make_batch()
    evaluation, attack = found.evaluation, found.evaluation.attacks[0]
    right = [sample for sample in evaluation.samples if sample.clean == sample.label]
    distances = [sample.nearest["tests.helpers.eval_models:nearest"] for sample in right]
    assert attack.censored == sum(distance is None for distance in distances) >= sum(s.label == 0 for s in right) > 0
    known = sorted(distance if distance is not None else 9.0 for distance in distances)
    assert attack.median_nearest == pytest.approx(known[(len(known) - 1) // 2])
    for sample, distance in zip(right, distances, strict=True):
        inside = distance is not None and distance <= LINF.eps + 1e-6
        assert inside == (sample.broken_by is not None)
        assert not inside or distance == pytest.approx(sample.distance)
    assert any(distance is not None and distance > LINF.eps for distance in distances), "also outside the ball"
    wrong = [sample for sample in evaluation.samples if sample.clean != sample.label]
    assert all(sample.nearest["tests.helpers.eval_models:nearest"] is None for sample in wrong)
    assert LINF.distance(found.examples.x_adv, x).max() <= LINF.eps + 1e-6


def test_a_median_that_is_censored_is_not_known():
    x, y = make_batch()
    zeros = (y == 0).nonzero().squeeze(1)
    model = make_net()
    keep = zeros[(model(x[zeros]).argmax(1) == 0)]
    found = robustcls.evaluate(model, x[keep], y[keep], LINF, attacks=["tests.helpers.eval_models:nearest"])
    assert found.attacks[0].median_nearest is None
    assert found.attacks[0].censored == len(keep) > 0


def test_transfer_crafts_on_one_model_and_judges_on_the_other():
    other = make_net()
    torch.manual_seed(5)
    for parameter in other.parameters():
        parameter.data += 0.3 * parameter.data.std() * torch.randn_like(parameter)
    attacks = ["pgd(steps=10)"]
    white, transferred = judged_batch(attacks=attacks), judged_batch(attacks=attacks, surrogate=other)
    assert white.evaluation.robust.correct < transferred.evaluation.robust.correct < white.evaluation.clean.correct
    assert "transfer" in transferred.evaluation.threat.knowledge
    assert transferred.evaluation.surrogate.sha256 != transferred.evaluation.model.sha256
    assert transferred.evaluation.attacks[0].backwards > 0
    same = judged_batch(attacks=attacks, surrogate=make_net())
    assert same.evaluation.robust.correct == pytest.approx(white.evaluation.robust.correct, abs=1)
    with torch.no_grad():
        fooled = make_net()(transferred.examples.x_adv).argmax(1) != transferred.y
    assert (fooled >= (transferred.examples.breaker >= 0)).all()


def test_the_surrogate_is_left_as_it_was():
    other = make_net().train()
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    judged_batch(surrogate=other)
    assert other.training
    assert all(parameter.requires_grad for parameter in other.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_what_cannot_be_run_is_refused_before_anything_is_computed():
    class Outputs(nn.Module):
        differentiable = False

    other = Surrogate(make_net(), None, make_batch()[1])

    x, y = make_batch()

    def subject(model, threat):
        return SimpleNamespace(
            source=model, x=x, source_y=y, index=torch.arange(len(y)), threat=threat, aim=None, detector=None
        )

    for attacks, model, threat, message in (
        (["tests.helpers.eval_models:anywhere", "pgd"], Outputs(), BOX, "pgd needs gradients"),
        (["pgd", "tests.helpers.eval_models:anywhere"], make_net(), LINF, "`norm=linf` and `eps=1`"),
        (["pgd", "pgd(step=3)"], make_net(), LINF, "did you mean 'steps'"),
    ):
        with pytest.raises(InputError, match=message):
            check_attacks(as_attacks(attacks), subject(model, threat))
    check_attacks(as_attacks("pgd"), Subject(Outputs(), x, y, LINF, None, None, torch.arange(len(y)), surrogate=other))
    check_attacks(as_attacks("tests.helpers.eval_models:anywhere"), subject(Outputs(), BOX))


def test_the_whole_box_judges_attacks_that_leave_every_ball():
    found = judged_batch(attacks=["tests.helpers.eval_models:anywhere"], threat=BOX).evaluation
    assert found.attacks[0].broken > 0
    assert "black box" in found.threat.knowledge
    assert "white box" in judged_batch().evaluation.threat.knowledge


def test_an_attack_that_breaks_off_alone_claims_nothing_about_those_it_did_not_meet():
    found = judged_batch(attacks=["tests.helpers.eval_models:raises", "fgsm"], alone=True).evaluation
    assert found.attacks[0].error
    assert found.attacks[0].alone is None
    assert found.attacks[1].alone is not None


class Shifted(nn.Module):
    """A model with the same predictions, but logits that are shifted, masked, or NaN except on the clean images."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = make_net(), kind

    def forward(self, x):
        logits = self.net(x)
        if self.kind == "masked":
            return torch.cat([logits, torch.full_like(logits[:, :2], -1e9)], 1)
        if self.kind == "minus infinity":
            return torch.cat([logits, torch.full_like(logits[:, :2], -torch.inf)], 1)
        if self.kind == "large":
            return logits + 100
        clean = make_batch()[0]
        known = (x[:, None] == clean[None, : len(clean)]).flatten(2).all(2).any(1)
        return logits.where(known[:, None], torch.nan)


@pytest.mark.parametrize("kind", ["masked", "minus infinity", "large"])
def test_the_verdict_follows_the_label_whatever_the_other_logits(kind):
    attacks = ["pgd(steps=5)", "apgd_ce(steps=10)", "fab_t(steps=5)", "square(queries=50)"]
    plain, shifted = judged_batch(attacks=attacks).evaluation, judged_batch(Shifted(kind), attacks=attacks).evaluation
    assert shifted.robust.correct == pytest.approx(plain.robust.correct, abs=2)
    assert shifted.robust.correct < shifted.clean.correct
    assert {check.id: check.status for check in shifted.checks}["random_output"] == "pass"


def test_a_model_that_does_not_answer_is_not_called_robust():
    """NaN logits count as an error, also under attack."""
    found = judged_batch(Shifted("nan"), attacks=["pgd(steps=3)"]).evaluation
    assert (found.clean.correct, found.robust.correct) == (45, 0)
    assert {check.id: check.status for check in found.checks}["finite_output"] == "fail"
    assert all(sample.adversarial is None for sample in found.samples if sample.broken_by)
    assert {check.id: check.status for check in judged_batch().evaluation.checks}["finite_output"] == "pass"


@traits(minimum_norm=True)
def first_batch_alone(model, x, y, threat, *, generator=None):
    met.append(len(x))
    if len(met) > 1:
        raise RuntimeError("enough")
    return x


def test_samples_that_an_attack_never_met_are_not_censored():
    met.clear()
    found = judged_batch(attacks=[f"{__name__}:first_batch_alone"]).evaluation
    assert found.attacks[0].error
    assert found.attacks[0].censored == 16


def test_the_whole_box_says_nothing_of_masked_gradients():
    checks = judged_batch(attacks=["pgd(steps=1)"], threat=BOX).evaluation.checks
    assert {check.id: check.status for check in checks}["black_box_wins"] == "not_run"


def test_a_curve_is_refused_where_there_can_be_none():
    with pytest.raises(InputError, match="no curve"):
        check_attacks(
            as_attacks("tests.helpers.eval_models:anywhere"),
            SimpleNamespace(source=make_net(), threat=BOX, aim=None),
            [0.5],
        )


def test_a_surrogate_of_other_classes_is_refused():
    with pytest.raises(InputError, match="beyond the model's 2 classes"):
        judged_batch(surrogate=make_net(2))


# Saving and loading


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("threat", "attacks"),
    [
        (LINF, ["noise", "pgd(steps=3)", "fmn(steps=5)", "tests.helpers.eval_models:raises", "square(queries=20)"]),
        (ThreatModel("l2", 0.7), ["fgsm", "fab_t(steps=3)", "pgd(steps=3)"]),
        (ThreatModel("l1", 9.0), ["fgsm", "fmn(steps=5)"]),
        (BOX, ["patch(steps=2)"]),
    ],
    ids=str,
)
def test_an_evaluation_can_be_saved_and_loaded(threat, attacks, alone):
    grid = [] if threat is BOX else [threat.eps / 4, threat.eps * 2]
    found = judged_batch(attacks=attacks, threat=threat, alone=alone, eps_grid=grid).evaluation
    assert any(attack.broken for attack in found.attacks)
    assert robustcls.Evaluation.from_json(found.to_json()) == found


@pytest.mark.parametrize("kind", ["nan", "masked", "minus infinity"])
def test_an_evaluation_with_nan_or_infinite_logits_can_be_saved_and_loaded(kind):
    found = judged_batch(Shifted(kind), attacks=["pgd(steps=3)", "fgsm"], alone=True).evaluation
    assert robustcls.Evaluation.from_json(found.to_json()) == found
