"""Catastrophic and robust overfitting, detected from the history."""

import pytest

from robustcls.results.overfitting import REMEDY, catastrophes, robust_overfitting, shortfall
from robustcls.results.records import Chance, Epoch


def epochs(*values):
    return [
        Epoch(
            number, lr=0.1, train_loss=1.0, train_clean=0.9, train_robust=0.5, val_clean=0.8, val_robust=robust,
            val_fgsm=fgsm, seconds=1.0, images_per_second=1.0,
        )
        for number, (robust, fgsm) in enumerate(values, start=1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([], None),
        ([(None, None), (None, 0.5)], None),
        ([(0.4, 0.45), (0.41, 0.47)], []),
        ([(0.4, 0.45), (0.0, 0.9), (0.05, 0.6)], [1, 2]),
        ([(0.0, 0.9)], [0]),  # never robust, although FGSM says otherwise
        ([(0.4, 0.45), (0.2, 0.9)], []),  # exactly half of the best is not below half
        ([(0.4, 0.45), (0.1999, 0.9)], [1]),
        ([(0.5, 0.5), (0.125, 0.3125)], []),  # both accuracies fell
        ([(0.5, 0.5), (0.125, 0.33)], [1]),
        ([(0.4, 0.45), (None, None), (0.1, 0.7), (0.4, 0.4)], [2]),
        ([(0.1, 0.5), (0.6, 0.65)], []),  # compared with earlier epochs only
        ([(0.1, 0.5), (0.6, 0.65), (0.1, 0.5)], [2]),
        ([(0.0, 0.33), (0.4, 0.5)], []),  # still learning: FGSM breaks more than half of clean 0.8
        ([(0.03, 0.55), (0.0, 0.9)], [1]),  # never robust, and then FGSM breaks nothing
    ],
)
def test_catastrophes(values, places):
    assert catastrophes(epochs(*values)) == places


@pytest.mark.parametrize(
    ("robust", "words"),
    [
        ([], ""),
        ([None, None], ""),
        ([0.3, 0.4, 0.45], ""),
        ([0.45, 0.44], ""),  # within the noise
        ([0.45, 0.5, 0.44], "fell from 50.0% in epoch 2 to 44.0%"),
        ([0.5, None, 0.4, None], "fell from 50.0% in epoch 1 to 40.0%"),
        ([0.5, 0.3, 0.5], ""),
        ([0.3, 0.5, 0.5, 0.4], "in epoch 2 to"),  # ckpt.pt keeps the first of equals
    ],
)
def test_robust_overfitting(robust, words):
    said = robust_overfitting(epochs(*[(value, 0.5) for value in robust]))
    assert bool(said) == bool(words)
    assert words in said
    assert (REMEDY in said) == bool(words)
    assert "\n" not in said


@pytest.mark.parametrize(("images", "said"), [(None, True), (126, False), (2000, True)])
def test_a_fall_that_few_images_cannot_show_is_not_said(images, said):
    """The fall is from 61% to 57%. The 95% interval of 61% begins at 52% for 126 images, and at 59% for 2,000."""
    chance = None if images is None else Chance(images, 0.1)
    assert bool(robust_overfitting(epochs((0.61, 0.7), (0.57, 0.7)), chance)) == said


def test_what_the_training_batches_did_meanwhile_is_said():
    rows = epochs((0.5, 0.6), (0.4, 0.6))
    assert "training batches" not in robust_overfitting(rows)
    rows[0].train_robust, rows[1].train_robust = 0.55, 0.8
    assert "to 40.0%, while that of the training batches rose from 55.0% to 80.0%; ckpt.pt" in robust_overfitting(rows)


def test_how_far_an_epoch_is_below_the_best_and_below_training():
    rows = epochs((0.3, 0.4), (0.5, 0.6), (0.4, 0.5), (None, None))
    assert shortfall(rows[:1]) == (0.0, pytest.approx(0.2))
    assert shortfall(rows[:3]) == pytest.approx((0.1, 0.1))
    assert shortfall(rows) == (None, None)
    rows[2].train_robust = None
    assert shortfall(rows[:3]) == (pytest.approx(0.1), None)
    rows[2].epoch = 2  # a rollback undid the second epoch, which came again
    assert shortfall(rows[:3]) == (0.0, None)


def test_an_epoch_before_the_full_radius_is_no_catastrophe_and_no_best():
    history = epochs((0.1, 0.1), (0.02, 0.3), (0.0, 0.45), (0.3, 0.35), (0.02, 0.3))
    assert catastrophes(history) == [1, 2, 4]
    for one in history[:3]:
        one.growing = True
    assert catastrophes(history) == [4]
    assert catastrophes(history[:3]) is None


def test_a_catastrophe_is_no_robust_overfitting():
    history = epochs((0.3, 0.35), (0.4, 0.45), (0.0, 0.7))
    assert catastrophes(history) == [2]
    assert robust_overfitting(history) == ""
    assert robust_overfitting(epochs((0.3, 0.35), (0.4, 0.45), (0.3, 0.35))) != ""
