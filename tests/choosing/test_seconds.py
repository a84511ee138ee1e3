"""Equal seconds: the rehearsal, the time of a trial, and messages where times differ. All clocks are fake."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

import robustcls
from robustcls.choosing import trial as module
from robustcls.choosing.candidates import candidates
from robustcls.choosing.choose import choose_given
from robustcls.choosing.config import ChooseConfig
from robustcls.choosing.halving import share_out
from robustcls.choosing.record import Choice, Comparison, Contender, Plan, Rung, Trial
from robustcls.choosing.trial import Task, epochs_that_fit, run_trial
from robustcls.choosing.work import Work
from robustcls.results.accuracy import Accuracy
from tests.choosing.conftest import NETS
from tests.helpers.clock import Clock


def trial(name, correct, seconds, **changes):
    right, found = "1" * correct + "0" * (100 - correct), Accuracy.of(correct, 100)
    made = Trial(name, "rung 1", name, 0, 100, 4, 20, 30.0, seconds, 1.0, found, found, right, right, 0.1)
    return replace(made, **changes)


def contender(**changes):
    return Contender(
        "a", {}, 9, 1.0, 8, 5, **{"setup_seconds": 2.0, "epoch_seconds": 3.0, "val_seconds": 1.0, **changes}
    )


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=made))
    return made


# How many epochs fit


def test_epochs_are_what_preparation_and_the_last_validation_leave():
    assert epochs_that_fit(contender(), 30.0) == (30 - 2 - 1) // 3
    assert epochs_that_fit(contender(setup_seconds=2.5), 30.0) == 8
    assert epochs_that_fit(contender(), 1.0) == 1


def test_an_earlier_trial_determines_the_number_of_epochs():
    before = trial("a", 50, 21.0, around_seconds=1.0)  # 20 s for 4 epochs
    assert epochs_that_fit(contender(), 30.0, before) == 5
    assert epochs_that_fit(contender(), 30.0, replace(before, epochs=0, failed="diverged")) == 9


def rehearsals(monkeypatch, clock):
    """Fake the duration of setup (0.5 s), saving (0.25 s) and epochs (0.5 s), which all take longer for the first candidate;
    return the list of candidates begun so far."""
    begun = []

    @contextmanager
    def begin(config, **_):
        clock.now += 0.5 + (0 if begun else 7)
        begun.append(config.arch)
        yield SimpleNamespace(config=config, images_per_batch=32, state=SimpleNamespace(num_batches=5))

    def save(run):
        clock.now += 0.25 + (0 if len(begun) > 1 else 1)

    def measure_cost(run, seconds):
        assert seconds > 0
        return SimpleNamespace(
            parameters=9, forward_flops=1e6, epoch_seconds=0.5 + (0 if len(begun) > 1 else 2), val_seconds=0.25
        )

    for name, function in (("begin", begin), ("save_last", save), ("save_best", save), ("measure_cost", measure_cost)):
        monkeypatch.setattr(module, name, function)
    return begun


def work(options, names, where=None):
    given = {**options, "arch": tuple(names), "out": str(options["out"]), "quiet": True}
    config = ChooseConfig(**given)
    found = candidates(config, given)
    return Work(config, found, where or options["out"], lambda text: None, lambda run: None)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_order_of_the_candidates_costs_nothing(order, options, clock, monkeypatch):
    begun = rehearsals(monkeypatch, clock)
    names = [NETS[place] for place in order]
    plan = work(options, names).plan(share_out(600, 3))
    assert begun == [names[0], *names]
    assert {one.setup_seconds for one in plan.candidates} == {0.5 + 0.25}
    assert {one.epoch_seconds for one in plan.candidates} == {
        0.5 + 2 * 0.25
    }  # each epoch is saved, and possibly also as the best one
    assert len({epochs_that_fit(one, 30.0) for one in plan.candidates}) == 1


def test_a_process_that_goes_on_warms_up_before_its_first_trial(options, clock, monkeypatch):
    rehearsals(monkeypatch, clock)
    first = work(options, NETS[:2])
    first.plan(share_out(600, 2))
    assert Plan.load(options["out"] / "plan.json").candidates
    begun, trained = rehearsals(monkeypatch, clock), []

    def train(task, *_, **__):
        assert begun == [NETS[0]]
        trained.append(task.candidate.name)
        return trial(task.candidate.name, 50, 30.0)

    monkeypatch.setattr("robustcls.choosing.work.run_trial", train)
    again = work(options, NETS[:2])
    again.plan(share_out(600, 2))
    assert not begun
    again.rung(1, NETS[:2], 30.0, [])
    assert trained == NETS[:2]
    assert begun == [NETS[0]]


# The seconds that a trial took


def test_the_seconds_of_a_trial_are_all_that_passed(options, clock, monkeypatch):
    """Each of the two epochs takes 5 s to save, and judging the model takes 3 s."""
    from robustcls.training import loop

    save, judge = loop.save_last, module.judge

    def slow_save(run, *more):
        clock.now += 5
        save(run, *more)

    def slow_judge(*arguments, **more):
        clock.now += 3
        return judge(*arguments, **more)

    monkeypatch.setattr(loop, "save_last", slow_save)
    monkeypatch.setattr(module, "judge", slow_judge)
    at = work(options, NETS[:2])
    task = Task(at.candidates[NETS[0]], "rung 1", "runs/a", 2, 30.0)
    made = run_trial(task, options["out"], at.data, show=False)
    assert (made.seconds, made.around_seconds) == (13, 3)
    assert made.planned_epochs == made.epochs == 2


# Unequal seconds


def test_a_candidate_with_more_time_is_not_claimed_to_be_better():
    fast, slow = trial("fast", 80, 38.0), trial("slow", 50, 19.0)
    found = Comparison.of(fast, slow, "rung 1", 0.05)
    assert (found.claimable, found.unequal) == (False, "fast had 38 s, slow 19")
    assert Comparison.of(slow, fast, "rung 1", 0.05).unequal == found.unequal
    about = Comparison.of(fast, replace(slow, seconds=31.0), "rung 1", 0.05)
    assert (about.claimable, about.unequal) == (True, "")
    assert not Comparison.of(fast, replace(slow, seconds=30.0), "rung 1", 0.05).claimable


def test_a_candidate_that_is_better_in_less_time_is_claimed():
    found = Comparison.of(trial("fast", 80, 19.0), trial("slow", 50, 38.0), "rung 1", 0.05)
    assert (found.claimable, found.unequal) == (True, "")


@pytest.mark.parametrize("why", ["stopped", "failed"])
def test_a_candidate_that_ended_by_itself_used_its_whole_share(why):
    ended = trial("ended", 50, 4.0, **{why: "by itself"})
    assert Comparison.of(trial("other", 80, 32.0), ended, "rung 1", 0.05).claimable
    assert Rung.of(30.0, [trial("other", 80, 32.0), ended], ["other"]).unequal == ""


def test_more_updates_are_no_gain_of_more_images():
    whole, half = trial("a", 80, 30.0, images=200, updates=100), trial("a", 50, 30.0, images=100, updates=40)
    found = Comparison.of_images(whole, half, 0.05)
    assert (found.claimable, found.unequal) == (False, "200 images had 100 updates, 100 images 40")
    assert Comparison.of_images(whole, replace(half, updates=90), 0.05).claimable
    assert (found.first, found.second) == ("200 images", "100 images")


def test_a_rung_names_unequal_seconds():
    trials = [trial("a", 80, 38.0), trial("b", 70, 25.0), trial("c", 60, 19.0)]
    assert Rung.of(30.0, trials, ["a", "b"]).unequal == "a had 38 s, c 19"
    assert Rung.of(30.0, [replace(one, seconds=30.0) for one in trials], ["a", "b"]).unequal == ""


def test_a_choice_whose_winner_had_twice_the_seconds(options, clock):
    """The batches of one candidate take twice as long as those of the other, which no rehearsal measured."""

    def run_out(run):
        clock.now += {NETS[0]: 2.0, NETS[1]: 1.0}[run.config.arch]

    given = {**options, "arch": tuple(NETS[:2]), "out": str(options["out"]), "quiet": True}
    choice = choose_given(given, on_batch=run_out)
    seconds = {one.name: one.seconds for one in choice.rungs[0].trials}
    assert seconds == {NETS[0]: 20.0, NETS[1]: 10.0}
    assert choice.rungs[0].unequal == f"{NETS[0]} had 20 s, {NETS[1]} 10"
    if choice.winner == NETS[0]:
        assert not choice.rivals[0].claimable
        assert choice.rivals[0].unequal == choice.rungs[0].unequal
    loaded = Choice.load(options["out"] / "choose.json")
    assert loaded.rungs[0].unequal == choice.rungs[0].unequal


def test_the_seconds_of_a_run_that_was_cut_off_are_added_up(options, clock, monkeypatch):
    monkeypatch.setattr(module, "_seconds_before", lambda run: 100.0 if run.resumed else 0.0)
    seen = []

    class CutError(Exception):
        pass

    def cut(run):
        seen.append(run.state.batch)
        clock.now += 1
        if len(seen) == 7:
            raise CutError

    at = work(options, NETS[:2])
    task = Task(at.candidates[NETS[0]], "rung 1", "runs/a", 2, 30.0)
    with pytest.raises(CutError):
        run_trial(task, options["out"], at.data, show=False, on_batch=cut)
    made = run_trial(task, options["out"], at.data, show=False, on_batch=cut)
    assert made.seconds == 100 + 5  # the second epoch is repeated


def test_what_came_before_is_what_the_run_has_written_down():
    rows = [SimpleNamespace(seconds=3.0, val_seconds=1.0), SimpleNamespace(seconds=2.0, val_seconds=None)]
    run = SimpleNamespace(state=SimpleNamespace(history=rows, meter=SimpleNamespace(seconds=0.5)))
    assert module._seconds_before(run) == 6.5


def test_a_choice_without_the_new_fields_loads(options):
    import json

    robustcls.choose(NETS[:2], **options | {"seed_noise": 1})
    path = options["out"] / "choose.json"

    def without(value):
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key not in ("unequal", "planned_epochs")}
        return [without(one) for one in value] if isinstance(value, list) else value

    path.write_text(json.dumps(without(json.loads(path.read_text()))))
    old = Choice.load(path)
    assert old.best.scheduled_epochs == old.best.epochs == 2
    assert old.rivals[0].unequal == old.rungs[0].unequal == ""
