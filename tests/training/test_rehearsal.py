"""The number of epochs that fit into the given minutes."""

import time
from types import SimpleNamespace

import pytest

from robustcls.core.errors import InputError
from robustcls.data.splits import choose
from robustcls.runtime.flops import FlopCounter
from robustcls.training.rehearsal import fit_epochs, measure_cost, rehearse, unbroken
from tests.helpers.clock import Clock
from tests.helpers.tiny_run import TINIEST, same, values_of


def test_minutes_become_the_epochs_that_fit(make_run, monkeypatch):
    run = make_run(**TINIEST, minutes=1.0)
    before, clock = values_of(run.state.model), Clock(tick=0.25)
    monkeypatch.setattr("robustcls.training.rehearsal.time", SimpleNamespace(perf_counter=clock))
    began = clock()
    fit_epochs(run, began)
    epoch = 0.25 * run.state.num_batches + 0.25 / 2  # one tick per update, and one for validation every second epoch
    assert run.config.epochs == int((60 - (clock.now - began)) / epoch) == 42
    assert run.config.val_every == 2  # 0.25 s is a fifth of 1.25 s
    assert run.config.minutes == 0
    assert (run.state.epoch, run.state.batch) == (0, 0)
    assert same(before, values_of(run.state.model))
    for minutes, spent, epochs in ((1.0, 0, 8), (1.0, 30, 4), (1.0, 90, 1), (0.01, 0, 1)):
        cost = SimpleNamespace(epoch_seconds=7.0, val_seconds=1.0)
        monkeypatch.setattr("robustcls.training.rehearsal.measure_cost", lambda _, cost=cost: cost)
        run.config.minutes, run.config.val_every = minutes, 1
        fit_epochs(run, clock.now - spent)
        assert run.config.epochs == epochs


@pytest.mark.parametrize(
    ("minutes", "given", "epochs", "every"),
    [
        (2.0, None, 33, 3),  # training takes 3.3 s, validation 0.9 s every third epoch
        (2.0, 1, 28, 1),
        (2.0, 9, 35, 9),
        (0.5, None, 7, 2),  # four validations: of epochs 2, 4, 6 and 7
        (0.01, None, 1, 1),
    ],
)
def test_validation_takes_a_tenth_unless_it_is_given(minutes, given, epochs, every, make_run, monkeypatch):
    run = make_run(**TINIEST, minutes=minutes, val_every=given)
    cost = SimpleNamespace(epoch_seconds=4.2, val_seconds=0.9)
    monkeypatch.setattr("robustcls.training.rehearsal.measure_cost", lambda _: cost)
    clock = Clock()
    monkeypatch.setattr("robustcls.training.rehearsal.time", SimpleNamespace(perf_counter=clock))
    fit_epochs(run, clock.now)
    assert (run.config.epochs, run.config.val_every) == (epochs, every)


@pytest.mark.parametrize(
    ("options", "every"),
    [
        # 160 training and 40 validation images. PGD-2 is 7 passes over an image in training, and 10 in validation: 400 / 1120
        ({}, 4),
        ({"epochs": 12}, 3),  # four validations
        ({"epochs": 3}, 1),
        ({"patience": 2}, 2),
        ({"val_every": 1}, 1),
        ({"val_n": 4}, 1),
        ({"val_attack": "none"}, 1),  # 2 passes: 80 / 1120
        ({"adv": "none"}, 9),  # 3 passes: 400 / 480
        ({"eps_ramp": "0.4-0.75"}, 5),  # 3 passes in 0.4 of the run: 400 / (0.4 * 480 + 0.6 * 1120)
    ],
)
def test_validation_takes_at_most_a_tenth_of_the_operations(options, every, make_run):
    run = make_run(**{"epochs": 40, **options})
    rehearse(run)
    assert run.config.val_every == every


@pytest.mark.parametrize(
    "options",
    [
        {"adv": "pgd(steps=0)"},
        {"val_attack": "pgd(steps=0)"},
        {"augment": "crop_flip(pad=-1)"},
        {"adv": "none", "objective": "adversarial"},
    ],
)
def test_a_rehearsal_finds_what_would_stop_the_run(options, make_run):
    run = make_run(**options)
    with pytest.raises(InputError):
        rehearse(run)
    assert not run.folder.exists()


def test_the_cost_is_of_as_many_updates_as_fit_and_of_making_their_batches(make_run, monkeypatch):
    """An update takes 0.25 s, and making its batch one second. Of the 5 updates of an epoch, the first two are for warm-up."""
    run = make_run(**TINIEST)
    assert run.state.num_batches == 5
    clock, batches = Clock(), run.batches
    monkeypatch.setattr("robustcls.training.rehearsal.time", SimpleNamespace(perf_counter=clock))

    def slow_batches(**how):
        for number, batch in enumerate(batches(**how)):
            clock.now += 1 if number > 1 else 100
            yield batch

    step = run.state.train_step

    def slow_step(x, y):
        clock.now += 0.25
        return step(x, y)

    monkeypatch.setattr(run, "batches", slow_batches)
    monkeypatch.setattr(run.state, "train_step", slow_step)
    monkeypatch.setattr("robustcls.training.rehearsal.TIMED", 1)
    for seconds, timed in ((0.0, 1), (2.0, 2), (3.0, 3), (1e6, 3)):
        cost = measure_cost(run, seconds)
        assert cost.timed == timed
        assert cost.epoch_seconds - cost.val_seconds == pytest.approx(5 * 1.25)


def test_updates_before_the_ramp_are_priced_without_the_attack(make_run, monkeypatch):
    run = make_run(**TINIEST, adv="fgsm", eps_ramp="0.4-0.5", epochs=20)
    clock = Clock()
    monkeypatch.setattr("robustcls.training.rehearsal.time", SimpleNamespace(perf_counter=clock))
    step = run.state.train_step

    def slow_step(x, y):
        clock.now += 3 if run.state.threat.eps else 1
        return step(x, y)

    monkeypatch.setattr(run.state, "train_step", slow_step)
    cost = measure_cost(run)
    assert cost.epoch_seconds - cost.val_seconds == pytest.approx(run.state.num_batches * (0.4 * 1 + 0.6 * 3))
    assert cost.images_per_second == pytest.approx(run.images_per_batch / 3)


def test_validation_is_counted_as_if_no_image_were_dropped(make_run):
    """APGD drops an image that it has broken, which an untrained model hides; it must cost as much as PGD of as many steps."""
    shares = []
    for attack in ("pgd(steps=20)", "apgd_ce(steps=20)"):
        run = make_run(attack[:3], val_attack=attack)
        few = choose(run.val, 2)
        with FlopCounter() as counter:
            unbroken(run, few).validate(2)
        shares.append(counter.total)
    assert shares[1] == pytest.approx(shares[0], rel=0.1)


def test_too_few_minutes_for_an_epoch_are_said(make_run, monkeypatch):
    run = make_run(**TINIEST, minutes=0.1)
    monkeypatch.setattr(
        "robustcls.training.rehearsal.measure_cost", lambda _: SimpleNamespace(epoch_seconds=42.0, val_seconds=2.0)
    )
    fit_epochs(run, time.perf_counter())
    assert run.config.epochs == 1
    assert run.remark == "an epoch takes about 42 s, more than what is left of `minutes`"
