"""The number of passes of attacks and measures, as the time budget estimates it."""

import pytest
from torch import nn

from robustcls.attribution.measures.trust import FORWARDS, MAPS, make_maps, measure, select_samples
from robustcls.core import plugins
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import as_attack
from robustcls.evaluation.measures.corruptions import measure as corruptions
from robustcls.evaluation.measures.minimum.measure import PASSES as MINIMUM_PASSES
from robustcls.evaluation.measures.minimum.measure import measure as measure_minimum
from robustcls.evaluation.measures.other_curves.measure import PASSES as CURVE_PASSES
from robustcls.evaluation.measures.other_curves.measure import measure as measure_other_curves
from robustcls.evaluation.pace import Pace, passes_of
from tests.helpers.eval_models import evaluated, make_batch, make_net


def test_an_attack_passes_an_image_as_often_as_its_options_say():
    assert passes_of(as_attack("fgsm")) == 2
    assert passes_of(as_attack("pgd(steps=20, restarts=3)")) == 61
    assert passes_of(as_attack("apgd_t(steps=20, targets=3, restarts=2)")) == 121
    assert passes_of(as_attack("square(queries=500)")) == 501


class Counting(nn.Module):
    """A model that counts its images, including those that its copies receive."""

    passed = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        Counting.passed += len(x)
        return self.net(x)


@pytest.fixture(scope="module")
def counted():
    x, y = make_batch(12)
    model = Counting(make_net())
    judged = evaluated(model, x, y, ThreatModel("linf", 0.05), ["pgd(steps=3)"], batch_size=12)
    return model, judged


def test_the_measures_of_maps_pass_as_many_images_as_is_said(counted):
    model, judged = counted
    samples = select_samples(model, judged.x, judged.y, judged.examples.x_adv)
    Counting.passed = 0
    maps = make_maps(model, samples.x, samples.y, samples.x_adv, "saliency")
    measure(model, samples, "saliency", maps)
    assert Counting.passed / len(samples.x) == pytest.approx(MAPS + FORWARDS, rel=0.1)


@pytest.mark.slow
def test_curves_and_minimum_perturbations_pass_about_as_many_images_as_is_said(counted):
    model, judged = counted
    for passes, run in (
        (CURVE_PASSES, lambda: measure_other_curves(*judged.on(model), norms=["l2", "l1"], n=3, batch_size=12, seed=0)),
        (MINIMUM_PASSES, lambda: measure_minimum(*judged.on(model), n=3, batch_size=12, seed=0)),
    ):
        Counting.passed = 0
        run()
        assert passes / 3 < Counting.passed / 3 < 3 * passes


def test_corruptions_pass_each_image_once_for_each(counted):
    pace = Pace(forward=1.0, gradient=2.0)
    assert corruptions.seconds(pace) == 5 * len(plugins.names("corruption")) == 75
