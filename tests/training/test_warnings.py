"""Messages of a run about how it learns, and runs without robust validation."""

import json

import pytest
import torch

from robustcls.results.learning import FEW_UPDATES
from robustcls.results.records import Chance
from robustcls.training.checkpoint import read_last, restore_state, save_last
from robustcls.training.history import read_training
from robustcls.training.loop import fit
from robustcls.training.rehearsal import rehearse
from robustcls.training.tracking import numbers
from tests.helpers.tiny_run import SMALL


def measure(run, measured):
    """Make validation return these clean and robust accuracies, one pair per epoch."""
    rows = [{"train_clean": 0.8, "val_clean": c, "val_robust": r, "val_fgsm": r} for c, r in measured]
    run.validate = lambda count: rows[len(run.state.history)]
    return run


def warnings_of(run):
    return [json.loads(line)["warning"] for line in (run.folder / "history.jsonl").read_text().splitlines()]


def test_few_updates_are_told_in_the_first_epoch(make_run):
    run = measure(make_run(**SMALL), [(0.9, 0.9)] * 2)
    fit(run)
    assert run.state.num_batches == 5 < FEW_UPDATES
    first, second = warnings_of(run)
    assert "only 5 updates per epoch, 10 in the run" in first
    assert second == ""


def test_a_rate_that_diverges_is_told_once(make_run):
    """The learning rate is 30, at which the loss of any network with BatchNorm jumps."""
    run = measure(make_run(**SMALL, adv="none", lr=30.0, epochs=4, batch_size=16, momentum=0.0), [(0.9, 0.9)] * 4)
    fit(run)
    told = [row.epoch for row in run.state.history if "the training loss rose" in row.warning]
    assert len(told) == 1


def test_a_run_at_chance_says_so_half_way_and_at_its_end(make_run):
    run = measure(make_run(**SMALL, epochs=4, batch_size=16), [(0.1, 0.1)] * 4)
    fit(run)
    assert ["learned nothing" in warning for warning in warnings_of(run)] == [False, True, False, True]
    training = read_training(run.folder / "ckpt.pt", torch.load(run.folder / "ckpt.pt", weights_only=True)["meta"])
    assert training.chance == run.chance == Chance(40, run.chance.majority)
    assert run.chance.majority == pytest.approx(0.1, abs=0.03)
    assert [row.warning for row in training.epochs] == warnings_of(run)


def test_a_run_that_learns_says_nothing_of_it(make_run):
    run = measure(make_run(**SMALL, epochs=2, batch_size=16), [(0.8, 0.5)] * 2)
    fit(run)
    assert warnings_of(run) == ["", ""]


# --val-attack none


@pytest.mark.parametrize("options", [{"adv": "fgsm"}, {"adv": "none"}, {"step": "free(replays=2)"}])
def test_without_a_validation_attack_robust_accuracy_is_not_measured(options, make_run):
    run = make_run(**SMALL, val_attack="none", **options)
    rehearse(run)
    fit(run)
    for row in run.state.history:
        assert (row.val_robust, row.val_fgsm) == (None, None)
        assert row.val_clean is not None
        assert not {"val/robust", "val/fgsm"} & numbers(row).keys()
    assert run.selected_by == "accuracy without an attack on 40 validation images"
    meta = torch.load(run.folder / "ckpt.pt", weights_only=True)["meta"]
    assert meta["selected_by"] == run.selected_by
    assert read_training(run.folder / "ckpt.pt", meta).val_attack == "none"


def test_the_best_clean_epoch_is_kept_and_patience_counts_from_it(make_run):
    run = measure(make_run(**SMALL, val_attack="none", epochs=9, patience=2), [(c, None) for c in (0.5, 0.7, 0.6, 0.7)])
    fit(run)
    assert (run.state.best_epoch, run.state.epoch, run.state.stopped) == (2, 4, "no better epoch than 2 for 2 epochs")


def test_it_resumes_and_its_tracker_gets_no_adversarial_images(make_run, monkeypatch):
    run = make_run(**SMALL, val_attack="none", epochs=2)
    save_last(run)
    config, content = read_last(run.folder)
    again = make_run(**vars(config))
    restore_state(again, content)
    monkeypatch.setattr(again.tracking, "wants_images", lambda epoch: True)
    monkeypatch.setattr(again.tracking, "images", lambda *_: pytest.fail("logged"))
    fit(again)
    assert len(again.state.history) == 2
