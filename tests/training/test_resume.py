"""A run that is stopped and resumed ends bit-equal to an uninterrupted one."""

import dataclasses
import os
import signal

import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import Interrupted, fit
from tests.helpers.tiny_run import SMALL, TIMES, CutError, cut_at, same, tiny_run

EPOCHS, BATCHES = 3, 5
OPTIONS = {"ema": 0.8, "epochs": EPOCHS, "seed": 5, "adv": "pgd(steps=1)"}


def finish(run, *on_batch):
    fit(run, *on_batch)
    return run


def resumed(run, make_run):
    """Return a run that continues as in another process: only the folder is left."""
    config, content = read_last(run.folder)
    assert config == run.config
    torch.manual_seed(12345)
    again = make_run(run.folder.name, **dataclasses.asdict(config))
    restore_state(again, content)
    return again


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_images):
    """Return a run that was not interrupted."""
    run = tiny_run(tmp_path_factory.mktemp("straight"), tiny_images, **OPTIONS)
    assert run.state.num_batches == BATCHES
    return finish(run)


@pytest.mark.parametrize(
    ("epoch", "batch", "number"),
    [(0, 2, signal.SIGINT), (1, 3, signal.SIGTERM), (0, BATCHES, signal.SIGINT), (2, BATCHES, signal.SIGINT)],
    ids=["before the first epoch ends", "in the second", "after an epoch's last batch", "after the very last batch"],
)
def test_stopped_anywhere_and_resumed_it_ends_the_same(epoch, batch, number, make_run, straight):
    def stop(run):
        if (run.state.epoch, run.state.batch) == (epoch, batch):
            os.kill(os.getpid(), number)

    run = make_run("stopped", **OPTIONS)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        finish(run, stop)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert (run.state.epoch, run.state.batch) == (epoch, batch)
    last = finish(resumed(run, make_run))
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(run.folder / name, weights_only=True) for run in (straight, last))
        assert one.keys() == other.keys()
        for key in one:
            assert same(one[key], other[key], (*TIMES, "saved", "config")), f"{name}: {key}"
    assert len((last.folder / "history.jsonl").read_text().splitlines()) == EPOCHS


def test_the_comparison_can_fail(straight):
    content = torch.load(straight.folder / "last.pt", weights_only=True)
    other = torch.load(straight.folder / "last.pt", weights_only=True)
    assert same(content, other)
    other["optimizer"]["state"][0]["momentum_buffer"].view(-1)[0] += 1e-6
    assert not same(content["optimizer"], other["optimizer"])
    other["history"][0]["val_clean"] += 0.1
    assert not same(content["history"], other["history"])


def test_a_finished_run_has_nothing_to_do(straight, make_run):
    config, content = read_last(straight.folder)
    run = make_run("again", **dataclasses.asdict(config))
    restore_state(run, content)
    assert run.state.epoch == EPOCHS
    finish(run, lambda _: pytest.fail("trained on"))


def test_a_second_ctrl_c_stops_at_once(make_run):
    run = make_run()

    def twice(run):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finish(run, twice)
    assert not (run.folder / "last.pt").exists()


def test_what_is_no_run_is_refused(tmp_path, make_run):
    with pytest.raises(InputError, match=r"no .*last\.pt"):
        read_last(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"is not the last\.pt of a run"):
        read_last(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"swa": 0.3},
        {"swa": 0.3, "optimizer": "adamw", "lr": 0.01, "clip": 0.5, "accumulate": 2},
        {"optimizer": "muon", "ema": 0.8},
        {"augment": "cutmix", "ema": 0.8},
        {"augment": "crop_flip+cutmix", "objective": "trades", "adv": "pgd(steps=1)", "swa": 0.3},
    ],
    ids=["swa", "swa and all", "muon", "cutmix", "cutmix with trades"],
)
def test_a_run_that_was_cut_off_ends_bit_equal(options, make_run):
    options = {**SMALL, "epochs": 3, "save_every": 2, "adv": "fgsm", **options}
    straight = make_run("straight", **options)
    fit(straight)

    run = make_run("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut_at(2, 3))
    config, content = read_last(run.folder)
    torch.manual_seed(7)
    again = make_run("cut", **vars(config))
    restore_state(again, content)
    assert (again.state.epoch, again.state.batch) == (2, 2)
    fit(again)
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(run.folder / name, weights_only=True) for run in (straight, again))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), f"{name}: {key}"
