"""Attacks as specs and as functions, the plan that contains them, and the resulting examples."""

from functools import partial

import numpy as np
import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.evaluation.attacks import as_attack, as_attacks, name_attacks
from robustcls.evaluation.checks import all_checks, thorough_checks
from robustcls.evaluation.plan import make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.reporting.sections.diagnostics import EXPECTED
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import LINF, evaluated, make_batch, make_net, step


def several(model, x, y, threat, *, steps: int = 1, scale: float = 1.0, loss=None):
    """Take steps of the given share of the radius, without random numbers."""
    x_adv = x
    for _ in range(steps):
        x_adv = threat.project(step(model, x_adv, y, scale * threat.eps), x)
    return x_adv


def test_a_function_is_evaluated_as_its_spec_is():
    x, y = make_batch()
    spec, function = f"{__name__}:several(steps=2)", partial(several, steps=2)
    by_spec, by_function = (evaluated(make_net(), x, y, LINF, [one], seed=3).evaluation for one in (spec, function))
    assert by_spec.samples != []
    assert [s.adversarial for s in by_spec.samples] == [s.adversarial for s in by_function.samples]
    assert torch.equal(by_spec.examples.x_adv, by_function.examples.x_adv)
    record = by_function.attacks[0]
    assert record.name == "several"
    assert record.options["steps"] == 2
    assert record.options["scale"] == 1.0
    assert by_function.robust.kind == "upper bound: several(steps=2)"
    assert Evaluation.from_json(by_function.to_json()).attacks[0].options == record.options


def test_options_can_be_set_anew_and_bounded():
    for attack in (as_attack("pgd(steps=7)"), as_attack(partial(several, steps=7))):
        assert attack.but(steps=14).options["steps"] == 14
        assert attack.but(steps=14).but(steps=3).options["steps"] == 3
        assert attack.bounded({"steps": 5, "queries": 1}, min).options["steps"] == 5
        assert attack.bounded({"steps": 9}, max).options["steps"] == 9
        assert attack.options["steps"] == 7
    assert str(as_attack("pgd( steps = 7 )").but(restarts=2)) == "pgd(steps=7, restarts=2)"


def test_names_tell_attacks_apart():
    attacks = ["fgsm", several, partial(several, steps=2), "pgd", "pgd"]
    assert name_attacks(attacks) == ["fgsm", "several", "several(steps=2)", "pgd #1", "pgd #2"]
    assert [one.name for one in as_attacks(several)] == ["several"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": [5]}, "neither a spec"),
        ({"attacks": "pgd(step=2)"}, "did you mean 'steps'"),
        ({"attacks": "fgsm", "suite": "fast"}, "give one"),
        ({"attacks": []}, "no attack was named"),
        ({"suite": "fats"}, "did you mean 'fast'"),
        ({"positive": 1}, "there are 4 classes, not two"),
        ({"eps_grid": "1,x"}, "x"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, message):
    subject = make_subject(make_net(), *make_batch(), LINF)
    with pytest.raises(InputError, match=message):
        make_plan(subject, **options)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("ddn", "ddn measures l2, not linf"),
        ("pgd(steps=0)", "give 1 or more"),
        ("universal(steps=0)", "give 1 step or more"),
        ("square(queries=0)", "give 1 query or more"),
    ],
)
def test_what_an_attack_refuses_is_refused_before_anything_runs_and_without_a_pass(attack, message):
    net = make_net()
    subject, before = make_subject(net, *make_batch(), LINF), torch.get_rng_state()
    net.register_forward_pre_hook(lambda *_: pytest.fail("the model was asked"))
    for own in ("fgsm", several):
        with pytest.raises(InputError, match=message):
            make_plan(subject, [own, attack])
    make_plan(subject, ["fgsm", several, "noise"])
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_hold_what_the_samples_say():
    x, y = make_batch()
    index = torch.arange(100, 160)
    found = evaluated(make_net(), x, y, LINF, ["fgsm", "pgd(steps=5)"], alone=True, index=index)
    examples, samples = found.examples, found.evaluation.samples
    assert torch.equal(examples.x, x)
    assert examples.index.tolist() == [sample.index for sample in samples] == index.tolist()
    assert examples.clean.tolist() == [sample.clean for sample in samples]
    assert examples.adversarial.tolist() == [sample.adversarial for sample in samples]
    assert examples.broken_by == [sample.broken_by for sample in samples]
    assert examples.success.tolist() == [sample.broken_by is not None for sample in samples]
    assert int(examples.correct.sum()) == found.evaluation.clean.correct
    assert int(examples.robust.sum()) == found.evaluation.robust.correct < found.evaluation.clean.correct
    assert (LINF.distance(examples.x_adv, x) - examples.distance).abs().max() < 1e-6
    moved = examples.to("cpu")
    assert type(moved) is type(examples)
    assert torch.equal(moved.x_adv, examples.x_adv)
    assert "examples" not in found.evaluation.to_json()


def test_a_part_of_a_subject_is_its_samples():
    subject = make_subject(make_net(), *make_batch(), LINF, surrogate=make_net())
    subject.files = [f"{number}.png" for number in range(60)]
    rows = torch.tensor([50, 3])
    part = subject.take(rows)
    assert torch.equal(part.x, subject.x[rows])
    assert part.y.tolist() == part.source_y.tolist() == subject.y[rows].tolist()
    assert part.index.tolist() == [50, 3]
    assert part.files == ["50.png", "3.png"]
    assert len(subject.y) == 60


def test_checks_are_found_in_order_and_known_to_the_report():
    every = all_checks()
    ids = [check.id for check in every]
    assert len(set(ids)) == len(ids)
    assert ids[0] == "zero_gradients"
    assert ids[-1] == "attack_self_test"
    assert np.all(np.diff([check.place for check in every]) > 0)
    assert set(EXPECTED) <= set(ids)
    assert all(check.thorough for check in thorough_checks())
    assert [check.id for check in every if not check.thorough] == ids[: len(ids) - len(thorough_checks())]


def test_the_versions_of_suites_are_recorded():
    x, y = make_batch()
    subject = make_subject(make_net(), x, y, LINF)
    assert make_plan(subject).suites == make_plan(subject, suite="fast").suites == {"fast": 2}
    older = make_plan(subject, suite="fast(version=1)")
    assert (older.suites, older.kind) == ({"fast": 1}, "fast(version=1)")
    assert [one.name for one in older.attacks] == ["apgd_ce", "apgd_t"]
    several = make_plan(subject, ["fast(version=1)", "standard", "fgsm"])
    assert several.suites == {"fast": 1, "standard": 1}
    assert make_plan(subject, "fgsm").suites == {}
    with pytest.raises(InputError, match=r"fast\(version=9\) is not known: give 1 or 2"):
        make_plan(subject, suite="fast(version=9)")
    found = evaluated(make_net(), x, y, LINF, ["fast(version=1)"]).evaluation
    assert Evaluation.from_json(found.to_json()).suites == {"fast": 1}


def test_attacks_that_continue_begin_with_the_strongest_attempt_so_far():
    """Attacks of a cascade continue if their options ask for it; the others begin as they would alone."""
    given = []

    def continues(model, x, y, threat, *, within: float = 1.0, start=None):
        given.append((within, start))
        return x

    x, y = make_batch()
    attacks = ["fgsm", partial(continues, within=0.5), continues]
    found = evaluated(make_net(), x, y, LINF, attacks).evaluation
    (_, start), (_, none) = given[0], given[-1]
    assert none is None
    rows = (found.examples.breaker < 0) & (found.examples.clean == y)
    assert torch.equal(start, found.examples.x_adv[rows][: len(start)])
    assert (start != x[rows][: len(start)]).any(), "the start differs from the clean images"
