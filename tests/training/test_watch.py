"""The watch over training: catastrophic overfitting and patience."""

import copy
import functools
import json
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import MOST_ROLLBACKS, fit
from robustcls.training.rehearsal import rehearse
from tests.helpers.tiny_run import SMALL, CutError, same, values_of

SOUND, LOST = (0.4, 0.45), (0.05, 0.6)  # robust and single-step accuracy


def measure(run, measured):
    """Make validation return these robust and single-step accuracies, one pair per epoch of the history."""
    values = [{"train_clean": 0.8, "val_clean": 0.7, "val_robust": r, "val_fgsm": f} for r, f in measured]
    run.validate = lambda count: values[len(run.state.history)]
    return run


def snapshot(run):
    return copy.deepcopy(run.state.state_dict())


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]


def test_a_collapse_stops_the_run_and_the_best_is_kept(make_run):
    run = measure(make_run(**SMALL, epochs=5), [(0.3, 0.35), SOUND, LOST])
    weights = []
    fit(run, on_epoch=lambda row: weights.append(values_of(run.state.model.net)))
    words = "catastrophic overfitting in epoch 3: robust 5.0%, single-step 60.0%"
    assert (run.state.epoch, run.state.stopped) == (3, words)
    assert [row["event"] for row in lines_of(run)] == ["", "", words]
    assert run.state.best_epoch == 2
    assert same(torch.load(run.folder / "ckpt.pt", weights_only=True)["state_dict"], weights[1])
    assert not (run.folder / "good.pt").exists()


def test_a_stopped_run_that_is_resumed_does_nothing(make_run):
    run = measure(make_run(**SMALL, epochs=5), [SOUND, LOST])
    fit(run)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    config, content = read_last(run.folder)
    again = make_run(**vars(config))
    restore_state(again, content)
    fit(again, lambda _: pytest.fail("trained on"), lambda _: pytest.fail("ended an epoch"))
    assert again.state.stopped == run.state.stopped
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


@pytest.mark.parametrize("options", [{"on_collapse": "ignore"}, {"adv": "none"}], ids=["ignore", "without an attack"])
def test_a_collapsed_run_goes_on_if_the_options_say_so(options, make_run):
    run = measure(make_run(**SMALL, epochs=3, **options), [SOUND, LOST, LOST])
    fit(run)
    assert (run.state.epoch, run.state.stopped, run.state.rollbacks) == (3, "", 0)
    told = ["catastrophic" in row.event for row in run.state.history]
    assert told == [False, *[options.get("adv") != "none"] * 2]


# Back to the last good epoch


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_rollback_goes_back_to_exactly_the_last_good_epoch(optimizer, make_run):
    options = {"on_collapse": "rollback", "epochs": 3, "ema": 0.8, "optimizer": optimizer, "lr": 0.01}
    run = measure(make_run(**SMALL, **options), [(0.3, 0.35), SOUND, LOST, LOST, SOUND])
    states = []
    fit(run, on_epoch=lambda row: states.append(snapshot(run)))
    first, second, third, fourth, last = states
    assert not same(first["state_dict"], second["state_dict"])
    for state in (third, fourth):
        for part in ("state_dict", "optimizer", "average", "scaler", "steps", "meter"):
            assert same(state[part], second[part]), part
    progress = [state["progress"] for state in states]
    assert [one["rollbacks"] for one in progress] == [0, 0, 1, 2, 2]
    assert [one["epoch"] for one in progress] == [1, 2, 2, 2, 3]
    assert not same(last["state_dict"], second["state_dict"])
    assert [row["epoch"] for row in lines_of(run)] == [1, 2, 3, 3, 3]  # collapsed epochs are kept
    events = [row["event"] for row in lines_of(run)]
    assert events[2].endswith("; back to epoch 2, the attack's step cut to 1/2")
    assert events[3].endswith("; back to epoch 2, the attack's step cut to 1/4")
    assert (events[0], events[1], events[4], run.state.stopped) == ("", "", "", "")


@pytest.mark.parametrize(
    ("adv", "lengths"),  # of the perturbation within eps 0.15: at first, after one rollback, after two
    [
        ("pgd(steps=1, random_start=False, step_size=0.1)", [0.1, 0.05, 0.025]),
        ("pgd(steps=1, random_start=False)", [0.15, 0.15, 2.5 * 0.15 / 4]),
        ("fgsm", [0.15, 0.075, 0.0375]),
        ("fgsm(step_size=0.12)", [0.12, 0.06, 0.03]),
        ("n_fgsm(noise=0.0)", [0.15, 0.075, 0.0375]),
    ],
)
def test_the_attacks_step_is_halved(adv, lengths, make_run):
    options = {"on_collapse": "rollback", "epochs": 2, "limit_train": 160}
    run = measure(make_run(**SMALL, **options, adv=adv), [SOUND, LOST, LOST, SOUND])
    inner, seen = run.state.inner.function, []

    @functools.wraps(inner)
    def spy(model, x, y, threat, **options):
        x_adv = inner(model, x, y, threat, **options)
        seen.append((run.state.rollbacks, threat.distance(x_adv, x).max().item()))
        return x_adv

    run.state.inner.function = spy
    fit(run)
    for rollbacks, length in enumerate(lengths):
        found = [distance for number, distance in seen if number == rollbacks]
        assert found == pytest.approx([length] * len(found), abs=1e-6)
        assert len(found) == (10 if rollbacks == 0 else 5)


@pytest.mark.parametrize("options", [{"adv": "apgd_ce(steps=2)"}, {"step": "free(replays=1)"}], ids=["apgd", "free"])
def test_no_step_is_said_to_be_cut_where_none_is(options, make_run):
    """Such runs are refused or stopped, or the message differs, because the same batches at the same step collapse again."""
    run = None
    with suppress(InputError):
        run = make_run(**SMALL, on_collapse="rollback", epochs=2, **options)
        rehearse(run)
        fit(measure(run, [SOUND, LOST, LOST, LOST, LOST, LOST, LOST]))
    assert not any("step cut" in row.event for row in (run.state.history if run else []))


@pytest.fixture
def rolled_back(make_run):
    """Return a run that was not killed, with a rollback in its second epoch and one in its third."""
    run = measure(make_run("straight", **KILLED), MEASURED)
    fit(run)
    assert [row.epoch for row in run.state.history] == [1, 2, 2, 3, 3]
    return run


KILLED = {**SMALL, "on_collapse": "rollback", "epochs": 3, "ema": 0.8, "save_every": 2}
MEASURED = [SOUND, LOST, (0.3, 0.35), LOST, SOUND]


@pytest.mark.parametrize("where", [(1, 1, 1), (1, 1, 3), (2, 2, 5)])  # rollbacks, epoch, batch
def test_a_run_killed_after_a_rollback_resumes_bit_equal(where, make_run, rolled_back):
    def cut(run):
        if (run.state.rollbacks, run.state.epoch, run.state.batch) == where:
            raise CutError

    run = measure(make_run(**KILLED), MEASURED)
    with pytest.raises(CutError):
        fit(run, cut)
    config, content = read_last(run.folder)
    again = measure(make_run(**vars(config)), MEASURED)
    restore_state(again, content)
    fit(again)
    for file in ("ckpt.pt", "last.pt", "good.pt"):
        one, other = (torch.load(run.folder / file, weights_only=True) for run in (rolled_back, again))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), (file, key)


def test_after_so_many_rollbacks_the_run_stops(make_run):
    run = measure(make_run(**SMALL, on_collapse="rollback", epochs=4), [SOUND, *[LOST] * (MOST_ROLLBACKS + 1)])
    fit(run)
    assert MOST_ROLLBACKS == 5
    assert (run.state.rollbacks, len(run.state.history)) == (5, 7)
    assert run.state.stopped.endswith("single-step 60.0%, after 5 rollbacks")
    assert lines_of(run)[-1]["event"].startswith("catastrophic overfitting in epoch 2")
    assert run.state.best_epoch == 1
    assert read_last(run.folder)[1]["progress"]["stopped"] == run.state.stopped


class Memory:
    """A tracker that records what it receives."""

    made = ()

    def __init__(self, folder, config, start):
        self.start, self.steps, self.closed = start, [], False
        Memory.made = (*Memory.made, self)

    def scalars(self, step, values):
        self.steps.append((step, values["epoch"]))

    def images(self, step, name, grid):
        pass

    def close(self):
        self.closed = True


def test_trackers_outlive_a_rollback(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "memories", SimpleNamespace(memory=Memory))
    monkeypatch.setattr(Memory, "made", ())
    options = {"on_collapse": "rollback", "epochs": 3, "track": ("memories:memory",)}
    run = measure(make_run(**SMALL, **options), [SOUND, LOST, SOUND, SOUND])
    fit(run)
    told = [one for tracker in Memory.made for one in tracker.steps]
    assert [epoch for _, epoch in told] == [1, 2, 2, 3]
    assert all(tracker.closed for tracker in Memory.made if tracker.steps)


# Patience


def test_patience_ends_a_run_that_gets_no_better(make_run):
    run = measure(make_run(**SMALL, epochs=9, patience=2), [(0.3, 0.3), (0.4, 0.4), (0.4, 0.5), (0.2, 0.2)])
    fit(run)
    assert (run.state.epoch, run.state.stopped) == (4, "no better epoch than 2 for 2 epochs")
    assert [row["event"] for row in lines_of(run)] == ["", "", "", run.state.stopped]
    config, content = read_last(run.folder)
    again = make_run(**vars(config))
    restore_state(again, content)
    fit(again, lambda _: pytest.fail("trained on"))


def test_a_better_epoch_renews_the_patience(make_run):
    measured = [(0.3, 0.3), (0.2, 0.2), (0.4, 0.4), (0.3, 0.3), (0.3, 0.3)]
    run = measure(make_run(**SMALL, epochs=5, patience=3), measured)
    fit(run)
    assert (run.state.epoch, run.state.stopped, run.state.best_epoch) == (5, "", 3)


def test_what_patience_says_does_not_hide_a_collapse(make_run):
    run = measure(make_run(**SMALL, epochs=5, patience=1, on_collapse="ignore"), [SOUND, LOST])
    fit(run)
    assert "no better epoch than 1" in run.state.stopped
    event = lines_of(run)[-1]["event"]
    assert "catastrophic overfitting" in event
    assert "no better epoch than 1" in event
