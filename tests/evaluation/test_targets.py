"""Evaluations with targeted attacks: success is the target class, counted by hand, also for wrapped models."""

import dataclasses

import numpy as np
import pytest
import torch

import robustcls
from robustcls.attacks._goal import Goal
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.config import AttackConfig, ExplainConfig
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.subject import load_subject, load_subjects
from robustcls.evaluation.targets import aimed
from robustcls.reporting.card import robustbench_info
from robustcls.results.comparison import find_mismatch
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Accuracy, Evaluation
from tests.helpers.eval_models import make_engine, train_digits

ATTACKS = ["pgd(steps=10)", "apgd_dlr(steps=10)"]
EPS = 0.15


@pytest.fixture(scope="module")
def net():
    return train_digits()


@pytest.fixture(scope="module")
def data():
    x, y = digits("test", size=8).batch()
    return x[:80], y[:80]


@pytest.fixture(scope="module")
def second(net, data):
    return robustcls.evaluate(net, *data, f"linf:{EPS}", attacks=ATTACKS, target="second", eps_grid=[0, 0.1, EPS, 0.3])


@pytest.fixture(scope="module")
def free(net, data):
    return robustcls.evaluate(net, *data, f"linf:{EPS}", attacks=ATTACKS)


@pytest.fixture(scope="module")
def least(net, data):
    return robustcls.evaluate(net, *data, "linf:0.2", attacks=ATTACKS, target="least_likely")


@pytest.mark.parametrize(("rule", "place", "eps"), [("second", 0, EPS), ("least_likely", -1, 0.2)])
@torch.no_grad()
def test_success_is_the_target_as_counted_by_hand(net, data, second, least, rule, place, eps):
    x, y = data
    evaluation = {"second": second, "least_likely": least}[rule]
    found, right = evaluation.examples, net(x).argmax(1) == y
    target = torch.tensor([
        sorted((k for k in range(10) if k != label), key=lambda k: -row[k])[place]
        for row, label in zip(net(x).tolist(), y.tolist(), strict=True)
    ])  # fmt: skip
    assert [sample.target for sample in evaluation.samples] == target.tolist()
    after = net(found.x_adv).argmax(1)
    assert (found.x_adv - x).abs().max() <= eps + 1e-6
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    reached = right & (after == target)
    assert torch.equal(found.success, reached)
    assert 2 < reached.sum() < right.sum() - 5
    if rule == "least_likely":
        assert (right & (after != y) & ~reached).any(), "other wrong classes occur, and do not count as success"
    counted = evaluation.targeted.reached
    assert (counted.correct, counted.total) == (int(reached.sum()), int(right.sum()))
    assert evaluation.robust.correct == int((right & ~reached).sum())
    assert all(sample.adversarial == sample.target for sample in evaluation.samples if sample.broken_by)
    assert (evaluation.targeted.target, evaluation.targeted.left_out) == (rule, 0)
    assert evaluation.robust.kind.endswith(f"only the target counts, {rule}")
    assert evaluation.threat.goal == f"targeted: {rule}; no other wrong class counts"


def test_the_curve_is_of_the_target(net, data, second, free):
    points = {point.eps: point.robust.correct for point in second.curve}
    assert list(points) == [0, 0.1, EPS, 0.3]
    assert points[0] == second.clean.correct > points[0.1] > points[EPS] == second.robust.correct > points[0.3]
    large = robustcls.evaluate(net, *data, "linf:0.3", attacks=ATTACKS, target="second")
    assert points[0.3] <= large.robust.correct <= points[0.3] + 2
    assert second.robust.correct > free.robust.correct


def test_one_class_for_all_leaves_its_own_samples_out(net, data):
    x, y = data
    given = [robustcls.evaluate(net, x, y, f"linf:{EPS}", attacks=ATTACKS, target=target) for target in (3, "3")]
    for found in given:
        assert found.data.n == len(found.samples) == found.clean.total == int((y != 3).sum())
        assert found.targeted.left_out == int((y == 3).sum()) > 0
        assert [sample.index for sample in found.samples] == (y != 3).nonzero().squeeze(1).tolist()
        assert {sample.target for sample in found.samples} == {3}
        assert f"{found.targeted.left_out} samples of class 3" in found.data.note
        assert found.targeted.target == "3"
        assert "but for the class 3" in found.data.estimates
    assert find_mismatch(given) == ""
    each = robustcls.evaluate(
        net, x[y != 3], y[y != 3], f"linf:{EPS}", attacks=ATTACKS, target=[3] * int((y != 3).sum())
    )
    assert each.targeted.target == "one per sample"
    assert abs(each.targeted.reached.correct - given[0].targeted.reached.correct) <= 2


def test_the_rules_give_no_label_and_follow_from_seed_and_sample(net, data):
    x, y = data
    subject = make_engine(net, x, y, ThreatModel("linf", EPS), batch_size=64).subject
    random = [aimed(subject, "random", seed=seed).aim.target for seed in (0, 0, 1)]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])
    assert not (random[0] == y).any()
    assert len(set(random[0].tolist())) == 10
    part = aimed(subject.take(torch.arange(40, 80)), "random", seed=0).aim.target
    assert torch.equal(part, random[0][40:]), "the target depends on the sample, not on its position"
    with torch.no_grad():
        least = net(x).argmin(1)
    chosen = aimed(subject, "least_likely", seed=0).aim.target
    assert torch.equal(chosen[least != y], least[least != y])
    assert not (chosen == y).any()


def test_subjects_of_a_command_aim_at_its_target_and_share_their_images():
    spec, options = "tests.helpers.defences:linear", {"data": "digits(size=8)", "n": 30, "device": "cpu"}
    one = load_subject(spec, AttackConfig(target="3", **options))
    assert one.aim.target.tolist() == [3] * len(one.y)
    assert 3 not in one.y
    two, other = load_subjects([spec, spec], AttackConfig(target="second", **options))
    assert two.x is other.x
    assert torch.equal(two.aim.target, other.aim.target)
    assert not (two.aim.target == two.y).any()
    assert load_subject(spec, AttackConfig(**options)).aim is None
    assert load_subject(spec, ExplainConfig(**options)).aim is None


def test_attacks_on_several_batches_and_in_low_precision_meet_their_own_targets(net, data, second, monkeypatch):
    goals, claims = [], Engine._fools_search_model
    monkeypatch.setattr(
        Engine, "_fools_search_model", lambda self, x_adv, goal: goals.append(goal) or claims(self, x_adv, goal)
    )
    x, y = data
    parts = robustcls.evaluate(net, x, y, f"linf:{EPS}", attacks=ATTACKS, target="second", batch_size=7)
    assert abs(parts.robust.correct - second.robust.correct) <= 1
    low = robustcls.evaluate(net, x, y, f"linf:{EPS}", attacks=ATTACKS, target="second", precision="bf16")
    assert abs(low.robust.correct - second.robust.correct) <= 2
    assert low.provenance.precision == "bf16"
    assert goals
    assert all(goal.targeted for goal in goals), "bf16 claims success only for the target"


@torch.no_grad()
def test_what_low_precision_claims_is_the_target_too(net, data):
    """Otherwise, a sample with another wrong class would be attacked a second time in fp32."""
    x, y = data
    engine = make_engine(net, x, y, ThreatModel("linf", EPS), batch_size=64)
    logits = net(x)
    wrong = torch.where(logits.argmax(1) == y, logits.scatter(1, y[:, None], -torch.inf).argmax(1), logits.argmax(1))
    assert engine._fools_search_model(x, Goal.of(wrong, y)).sum() == (logits.argmax(1) == y).sum()
    assert not engine._fools_search_model(x, Goal.of(y, (logits.argmin(1)))).any()


@pytest.mark.slow
def test_one_pass_of_a_random_model_counts_the_target(net, data):
    """The averaged model is not random, so single passes agree with the evaluation."""
    model = robustcls.averaged(net, draws=2)
    found = robustcls.evaluate(model, *data, "linf:0.2", attacks=ATTACKS, target="least_likely")
    assert found.under_noise.clean.value == pytest.approx(found.clean.accuracy)
    assert found.under_noise.robust.value == pytest.approx(found.robust.accuracy)
    with torch.no_grad():
        after = net(found.examples.x_adv).argmax(1)
    assert (after == data[1]).float().mean() < found.robust.accuracy, "samples with other wrong classes count as robust"
    rand = robustcls.evaluate(net, data[0][:10], data[1][:10], "linf:0.05", suite="rand", target="least_likely")
    assert rand.robust.kind == "upper bound: rand; only the target counts, least_likely"


def test_a_straight_through_model_is_attacked_towards_the_target(data, net):
    class Coarse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.levels, self.net = torch.nn.Identity(), net
            self.levels.forward = lambda x: (x * 16).round() / 16

        def forward(self, x):
            return self.net(self.levels(x))

    blind = robustcls.evaluate(Coarse().eval(), *data, f"linf:{EPS}", attacks="pgd(steps=5)", target="second")
    model = robustcls.straight_through(Coarse().eval(), layer="levels")
    through = robustcls.evaluate(model, *data, f"linf:{EPS}", attacks="pgd(steps=5)", target="second")
    assert through.targeted.reached.correct > blind.targeted.reached.correct + 5


def test_transferred_examples_count_by_the_target(net, data):
    torch.manual_seed(1)
    found = robustcls.evaluate(
        net, *data, f"linf:{EPS}", attacks=ATTACKS, target="second", transfer_from=train_digits("fgsm")
    )
    with torch.no_grad():
        right, after = (net(x).argmax(1) for x in (data[0], found.examples.x_adv))
    targets = torch.tensor([sample.target for sample in found.samples])
    assert found.targeted.reached.correct == int(((right == data[1]) & (after == targets)).sum()) > 0
    assert found.targeted.target == "second"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 10}, "target 10 is none of the model's 10 classes"),
        ({"target": -1}, "target -1 is none of the model's 10 classes"),
        ({"target": "cat"}, "unknown target 'cat': there are 0, 1"),
        ({"target": "randon"}, "unknown target 'randon'"),
        ({"target": 2.0}, "give one per image"),
        ({"target": True}, "give one per image"),
        ({"target": [1, 2]}, "target of shape .* for 80 images: give one per image"),
        ({"target": ["cat"] * 80}, "is not a class"),
        ({"target": "second", "suite": "fast"}, "malt.* cannot aim at a class"),
        ({"target": "second", "suite": "standard"}, "apgd_t cannot aim at a class"),
        ({"target": "second", "attacks": ["pgd", "deepfool"]}, "deepfool cannot aim at a class.*suite=targeted"),
        (
            {"target": "second", "detector": lambda images, logits: -logits.amax(1), "held_out": torch.rand(40, 1, 8, 8)},
            "not evaluated together with a detector: leave out `target` or `detector`",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_aimed_at_is_refused(net, data, options, message):
    with pytest.raises(InputError, match=message) as refusal:
        robustcls.evaluate(net, *data, f"linf:{EPS}", **options)
    assert "\n" not in str(refusal.value)


def test_a_target_that_is_the_label_is_refused(net, data):
    x, y = data
    with pytest.raises(InputError, match=f"target {int(y[4])} is the label of image 4: give another class"):
        robustcls.evaluate(net, x, y, f"linf:{EPS}", target=torch.where(torch.arange(80) == 4, y, (y + 1) % 10))
    with pytest.raises(InputError, match="target 3 is the label of every image"):
        robustcls.evaluate(net, x[y == 3], y[y == 3], f"linf:{EPS}", target=3)


def test_unlike_questions_are_not_compared(net, data, second, free):
    assert find_mismatch([second, second]) == find_mismatch([free, free]) == ""
    for pair in ([second, free], [free, second]):
        assert "the definitions of success differ" in find_mismatch(pair)
        assert "any wrong class" in find_mismatch(pair)
        assert "target second" in find_mismatch(pair)
    least = robustcls.evaluate(net, *data, f"linf:{EPS}", attacks=ATTACKS, target="least_likely")
    assert find_mismatch([second, least]) == "the definitions of success differ (target second and target least_likely)"
    random = [
        robustcls.evaluate(net, *data, f"linf:{EPS}", attacks="fgsm", target="random", seed=seed) for seed in (0, 1)
    ]
    assert find_mismatch(random) == "the random targets were drawn with different seeds (0 and 1)"
    each = [
        robustcls.evaluate(net, *data, f"linf:{EPS}", attacks="fgsm", target=(data[1] + step) % 10) for step in (1, 2)
    ]
    assert find_mismatch(each) == "the targets of the samples differ"


def test_a_policy_on_robust_accuracy_is_not_decided_by_a_target(second, free):
    policy = Policy(min_robust=0.01, min_clean=0.01)
    assert judge(free, policy).status in ("PASS", "WARN")
    verdict = judge(second, policy)
    assert verdict.status == "INCONCLUSIVE"
    assert "the attacks aim at one class, second: evaluate without a target" in str(verdict)
    assert judge(second, Policy(min_clean=0.01)).status in ("PASS", "WARN")


def first_broken(evaluation):
    return next(one for one in evaluation.samples if one.broken_by)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: setattr(e.samples[0], "target", e.samples[0].label), "another class than its label"),
        (lambda e: setattr(e.samples[0], "target", None), "a class where attacks aim"),
        (lambda e: setattr(e, "targeted", None), "a class where attacks aim"),
        (lambda e: setattr(e.targeted, "reached", Accuracy.of(0, e.clean.correct)), "that robust accuracy lacks"),
        (
            lambda e: setattr(
                first_broken(e), "target", ({0, 1, 2} - {first_broken(e).label, first_broken(e).adversarial}).pop()
            ),
            "the target, as a broken sample has it",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(second, change, message, tmp_path):
    kept = dataclasses.replace(
        second, samples=[dataclasses.replace(one) for one in second.samples],
        targeted=dataclasses.replace(second.targeted),
    )  # fmt: skip
    kept.save(tmp_path / "good.json")
    assert Evaluation.load(tmp_path / "good.json").targeted == second.targeted
    change(kept)
    with pytest.raises(InputError, match=message):
        kept.save(tmp_path / "bad.json")


def test_the_examples_on_disk_have_their_targets(second, free, tmp_path):
    count = second.examples.save(tmp_path / "e.npz")
    kept = np.load(tmp_path / "e.npz")
    assert kept["target"].tolist() == [one.target for one in second.samples if one.broken_by]
    assert len(kept["target"]) == count == second.targeted.reached.correct
    free.examples.save(tmp_path / "free.npz")
    assert "target" not in np.load(tmp_path / "free.npz")


def test_a_run_that_was_cut_off_goes_on_with_its_targets_alone(net, data, second, tmp_path):
    calls = []

    def cut(model, x, y, threat, *, target=None, generator=None):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return x

    def run(target):
        return robustcls.evaluate(
            net,
            *data,
            f"linf:{EPS}",
            attacks=["pgd(steps=3)", cut],
            target=target,
            batch_size=16,
            resume=tmp_path / "run",
        )

    with pytest.raises(KeyboardInterrupt):
        run("second")
    with pytest.raises(InputError, match="an evaluation with another target: "):
        run("least_likely")
    with pytest.raises(InputError, match="an evaluation with another target: "):
        run(None)
    found = run("second")
    expected = [sample.target for sample in second.samples]
    survivors = [one for one in found.samples if one.clean == one.label and one.broken_by is None]
    targets = [expected[one.index] for one in survivors]
    assert torch.cat([*calls[:1], *calls[2:]]).tolist() == targets, "the first batch was kept, the second repeated"


def test_robustbench_knows_no_targets(net, data):
    free, aimed = (
        robustcls.evaluate(net, *data, "linf:8/255", attacks="pgd(steps=3)", target=one) for one in (None, "second")
    )
    assert robustbench_info(free) is not None
    assert robustbench_info(aimed) is None


def test_targets_may_be_an_array(net, data):
    x, y = data[0][:10], data[1][:10]
    target = (y + 1) % 10
    one, other = (robustcls.attack(net, x, y, "linf:0.1", "pgd(steps=2)", target=t) for t in (target, target.numpy()))
    assert torch.equal(one, other)


def test_no_threshold_is_met_where_a_class_is_left_out(net, data):
    found = robustcls.evaluate(net, *data, "linf:0.05", attacks="fgsm", target=3)
    assert found.targeted.left_out > 0
    verdict = judge(found, Policy(min_clean=0.1))
    assert verdict.status == "INCONCLUSIVE"
    assert any("samples of the target's class were left out" in reason for reason in verdict.reasons)
