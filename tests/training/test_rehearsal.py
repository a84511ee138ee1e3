"""How many epochs fit into the minutes."""

import time
from types import SimpleNamespace

from robustcls.training.rehearsal import fit_epochs
from tests.helpers.tiny_run import TINIEST, same, values_of


def test_minutes_become_the_epochs_that_fit(make_run, monkeypatch):
    run = make_run(**TINIEST, minutes=1.0)
    before = values_of(run.state.model)
    fit_epochs(run, time.perf_counter())
    assert run.config.epochs > 1  # an epoch takes well under a second here
    assert run.config.minutes == 0
    assert (run.state.epoch, run.state.batch) == (0, 0)
    assert same(before, values_of(run.state.model))
    for minutes, spent, epochs in ((1.0, 0, 8), (1.0, 30, 4), (1.0, 90, 1), (0.01, 0, 1)):
        monkeypatch.setattr("robustcls.training.rehearsal.measure_cost", lambda _: SimpleNamespace(epoch_seconds=7.0))
        run.config.minutes = minutes
        fit_epochs(run, time.perf_counter() - spent)
        assert run.config.epochs == epochs
