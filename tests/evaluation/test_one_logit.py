"""A model with one output for two classes behaves like its twin with the logits 0 and z, under every attack."""

from functools import cache

import pytest
import torch

import robustcls
from tests.helpers.one_logit import pairs, told

pytestmark = pytest.mark.filterwarnings("ignore:.*class 1 of two")
ATTACKS = ["fgsm", "pgd(steps=10)", "apgd_ce(steps=10)", "square(queries=60)", "fast"]
EPS = 0.12


@cache
def samples():
    x, y = pairs("test").batch()
    return x[:40], y[:40]


model = cache(told)


@cache
def evaluated(form, attack, target=None):
    return robustcls.evaluate(model(form), *samples(), f"linf:{EPS}", attacks=attack, target=target, checks=[])


def verdicts(found):
    return [(sample.clean, sample.adversarial, sample.broken_by) for sample in found.samples]


@pytest.mark.parametrize("form", ["logit", "flat", "probability"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_verdicts_are_those_of_the_twin_sample_by_sample(form, attack):
    one, two = (evaluated(which, attack) for which in (form, "two"))
    assert verdicts(one) == verdicts(two)
    assert 3 < one.robust.correct < one.clean.correct - 3, "the attack breaks some samples, but not all"
    assert [record.forwards for record in one.attacks] == [record.forwards for record in two.attacks]
    torch.testing.assert_close(one.examples.margin, two.examples.margin, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_success_is_the_other_side_of_0_as_counted_by_hand():
    (x, y), found = samples(), evaluated("logit", "pgd(steps=10)")
    right, after = (((model("logit")(images)[:, 0] > 0).long() == y) for images in (x, found.examples.x_adv))
    assert torch.equal(found.examples.correct, right)
    assert torch.equal(found.examples.success, right & ~after)
    assert found.two_classes is not None


def test_the_class_that_is_aimed_at_is_the_other_one():
    free, aimed = (evaluated("logit", "pgd(steps=10)", target) for target in (None, "second"))
    assert torch.equal(free.examples.success, aimed.examples.success)
    assert torch.equal(aimed.examples.target, 1 - samples()[1])
