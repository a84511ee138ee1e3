"""Runs with dropout before the head."""

import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from tests.helpers.tiny_run import SMALL, TIMES, CutError, cut_at, first_batch, same

OPTIONS = {**SMALL, "epochs": 2, "adv": "fgsm"}


def test_it_changes_training_and_neither_the_attack_nor_what_is_saved(make_run):
    plain, run = make_run("plain", **OPTIONS), make_run("dropout", **OPTIONS, dropout=0.5)
    x, y = first_batch(run)
    for each in (plain, run):
        each.state.seed(0)
    assert torch.equal(run.state.attack(run.state.model, x, y), plain.state.attack(plain.state.model, x, y))
    for each in (plain, run):
        fit(each)
    assert plain.state.history[0].train_loss < run.state.history[0].train_loss
    model = robustcls.load(run.folder / "ckpt.pt", arch=SMALL["arch"])
    assert model.net[-1]._forward_pre_hooks == {}
    one, other = (torch.load(each.folder / "ckpt.pt", weights_only=True) for each in (plain, run))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert not torch.equal(one["state_dict"]["8.weight"], other["state_dict"]["8.weight"])


def test_cut_off_and_resumed_it_ends_bit_equal(make_run):
    options = {**OPTIONS, "dropout": 0.3, "save_every": 2, "swa": 0.3}
    straight, run = make_run("straight", **options), make_run("cut", **options)
    fit(straight)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 3))
    config, content = read_last(run.folder)
    again = make_run("cut", last=content, **vars(config))
    restore_state(again, content)
    fit(again)
    one, other = (torch.load(each.folder / "last.pt", weights_only=True) for each in (straight, again))
    for key in one.keys() - {"meta"}:
        assert same(one[key], other[key], TIMES), key


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="`dropout=.*` is out of range"):
        TrainConfig(dropout=share)
