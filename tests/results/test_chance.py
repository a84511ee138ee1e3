"""Messages about an accuracy that few images cannot distinguish from chance."""

import re

import pytest

from robustcls.results.learning import at_chance
from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import wilson


def run_of(*clean: float, robust: float | None = None) -> list[Epoch]:
    return [
        Epoch(number, 0.1, 1.0, None, None, one, robust, None, 1.0, 1.0) for number, one in enumerate(clean, start=1)
    ]


def test_few_images_are_said_to_be_few():
    said = at_chance(run_of(13 / 17), Chance(17, 10 / 17), adversarial=False)
    low, high = wilson(13, 17)
    assert low < 10 / 17 < high
    assert said == (
        f"17 validation images cannot tell clean accuracy, 76.5% at best (95% interval [{low:.1%}, {high:.1%}]), from the "
        "58.8% of always predicting the most frequent class: more of them can"
    )


def test_the_interval_of_the_best_of_several_epochs_holds_for_all_of_them():
    one, five = (at_chance(run_of(*[13 / 17] * count), Chance(17, 10 / 17), adversarial=False) for count in (1, 5))
    bounds = [list(map(float, re.findall(r"[\d.]+(?=%[,\]])", said)))[-2:] for said in (one, five)]
    assert bounds[1][0] < bounds[0][0] < bounds[0][1] < bounds[1][1]


def test_robust_accuracy_is_named():
    said = at_chance(run_of(1.0, robust=13 / 17), Chance(17, 10 / 17), adversarial=True)
    assert said.startswith("17 validation images cannot tell robust accuracy, 76.5% at best")


@pytest.mark.parametrize("right", [0, 9, 10])
def test_what_is_not_above_chance_has_learned_nothing(right):
    said = at_chance(run_of(right / 17), Chance(17, 10 / 17), adversarial=False)
    assert said == (
        f"the model has learned nothing: clean validation accuracy, {right / 17:.1%} at best, is not above the 58.8% of "
        "always predicting the most frequent class on 17 images"
    )
