"""Whether a model has learned: few updates, a rising loss, accuracy at chance level."""

import dataclasses

import pytest

from robustcls.results.learning import above_chance, at_chance, few_updates, first_rise, risen_loss
from robustcls.results.overfitting import robust_overfitting
from robustcls.results.records import Chance, Epoch

HALVES = Chance(images=36, majority=0.5)


def epochs(losses=(), clean=(), robust=()):
    count = max(map(len, (losses, clean, robust)))
    full = [list(values) or [filler] * count for values, filler in ((losses, 1.0), (clean, None), (robust, None))]
    return [
        Epoch(number, 0.1, loss, None, None, one, other, None, 1.0, 1.0)
        for number, (loss, one, other) in enumerate(zip(*full, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([1.25], ""),
        ([1.25, 1.2, 1.19, 0.9], ""),
        ([0.9, 1.0, 0.9], ""),  # fluctuates
        ([1.25, 4.8], "from 1.25 in epoch 1 to 4.8 in epoch 2"),
        ([0.9, 0.6, 4.0, 3.5, 0.7], "from 0.6 in epoch 2 to 4 in epoch 3"),  # even if it falls again
        ([2.0, 0.001, 0.01, 0.1], ""),  # a multiple of nearly 0 is still small
        ([2.0, 0.9, 1.57, 1.22], ""),  # adversarial training whose attack failed in one epoch
        ([2.0, 0.5, 1.01, 1.02], "from 0.5 in epoch 2 to 1.02 in epoch 4"),
        ([2.0, 0.5, 2.01], "from 0.5 in epoch 2 to 2.01 in epoch 3"),
    ],
)
def test_a_loss_that_rises(losses, words):
    said = first_rise(epochs(losses))
    assert bool(said) == bool(words)
    assert words in said
    assert "\n" not in said


def test_a_rise_is_told_of_the_last_epoch():
    history = epochs([1.0, 3.0, 1.0])
    assert not risen_loss(history)
    assert risen_loss(history[:2])


def test_few_updates():
    assert "only 2 updates per epoch, 60 in the run" in few_updates(2, 30)
    assert "only 1 update per epoch, 3 in the run" in few_updates(1, 3)
    assert few_updates(10, 1) == ""


@pytest.mark.parametrize(
    ("shares", "chance", "above"),
    [
        ([0.5], HALVES, False),
        ([23 / 36], HALVES, False),  # Wilson's lower bound is 0.476
        ([24 / 36], HALVES, True),  # 0.503
        (
            [1.0] * 3,
            Chance(images=4, majority=0.5),
            True,
        ),  # so few that even no error proves nothing: more than chance suffices
        ([0.5] * 3, Chance(images=4, majority=0.5), False),
        ([24 / 36] * 2, HALVES, False),  # the best of two is more often high by luck
        ([0.1, 0.2], Chance(500, 0.1), True),
        ([0.36, 0.41], HALVES, False),  # below chance
        ([0.95], Chance(600, 0.95), False),  # the share of the majority, not 1/K
        ([0.9], Chance(60, 0.95), False),
        ([0.5], None, True),  # chance is unknown
        ([], HALVES, True),  # not measured
    ],
)
def test_above_chance(shares, chance, above):
    assert above_chance(shares, chance) == above


def test_at_chance_names_what_was_not_learned():
    nothing, clean, both = ([0.5] * 3, [0.5] * 3), ([0.9] * 3, [0.5, 0.4, 0.3]), ([0.9] * 3, [0.8] * 3)
    said = [at_chance(epochs(clean=c, robust=r), HALVES, adversarial=True) for c, r in (nothing, clean, both)]
    assert "learned nothing: clean validation accuracy, 50.0% at best" in said[0]
    assert "learned no robustness: robust validation accuracy, 50.0% at best" in said[1]
    assert said[2] == ""
    assert at_chance(epochs(clean=clean[0], robust=clean[1]), HALVES, adversarial=False) == ""  # not trained for
    assert at_chance(epochs(clean=[0.9]), HALVES, adversarial=True) == ""  # --val-attack none


def test_what_was_never_robust_does_not_overfit():
    history = epochs(robust=[0.5, 0.5, 0.36])
    assert robust_overfitting(history)  # the run did not record chance
    assert not robust_overfitting(history, HALVES)
    assert robust_overfitting(epochs(robust=[0.9, 0.9, 0.36]), HALVES)


def test_the_warning_of_an_epoch_is_empty_by_default():
    """Epochs of earlier versions have no warning."""
    row = dataclasses.asdict(epochs([1.0])[0])
    assert Epoch(**{name: value for name, value in row.items() if name != "warning"}).warning == ""
