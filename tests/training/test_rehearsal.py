"""How many epochs fit into the minutes."""

from types import SimpleNamespace

from robustcls.training.rehearsal import fit_epochs
from tests.helpers.clock import Clock
from tests.helpers.tiny_run import TINIEST, same, values_of


def test_minutes_become_the_epochs_that_fit(make_run, monkeypatch):
    run = make_run(**TINIEST, minutes=1.0)
    before, clock = values_of(run.state.model), Clock(tick=0.25)
    monkeypatch.setattr("robustcls.training.rehearsal.time", SimpleNamespace(perf_counter=clock))
    began = clock()
    fit_epochs(run, began)
    epoch = 0.25 * run.state.num_batches + 0.25  # an update takes a tick, and so does validation
    assert run.config.epochs == int((60 - (clock.now - began)) / epoch) == 37
    assert run.config.minutes == 0
    assert (run.state.epoch, run.state.batch) == (0, 0)
    assert same(before, values_of(run.state.model))
    for minutes, spent, epochs in ((1.0, 0, 8), (1.0, 30, 4), (1.0, 90, 1), (0.01, 0, 1)):
        monkeypatch.setattr("robustcls.training.rehearsal.measure_cost", lambda _: SimpleNamespace(epoch_seconds=7.0))
        run.config.minutes = minutes
        fit_epochs(run, clock.now - spent)
        assert run.config.epochs == epochs
