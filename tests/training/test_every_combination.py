"""Every objective with every step: it learns in two epochs, and resumes bit-equal."""

import pytest
import torch

from robustcls.core import plugins
from robustcls.training.checkpoint import read_last, restore_state, save_last
from robustcls.training.loop import fit
from tests.helpers.combinations import STEPS, every_combination
from tests.helpers.tiny_run import SMALL, CutError, cut_at


def test_every_step_is_here():
    assert {step.partition("(")[0] for step in STEPS} == set(plugins.names("step"))


@every_combination
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_loss_falls_in_two_epochs(objective, step, precision, make_run):
    run = make_run(
        objective=objective,
        step=step,
        precision=precision,
        adv="none" if objective == "standard" else "pgd(steps=1)",
        arch="tests.helpers.tiny_run:small_cnn",
        limit_train=500,
        augment="none",
        eps="0.05",
        lr=0.05,
        val_n=16,
    )
    fit(run)
    first, second = run.state.history
    assert second.train_loss < 0.95 * first.train_loss


@every_combination
def test_a_run_that_was_cut_off_ends_bit_equal(objective, step, make_run):
    options = {"objective": objective, "step": step, "ema": 0.8, "save_every": 2, "accumulate": 1}
    options |= {"adv": "none" if objective == "standard" else "pgd(steps=1)", "arch": SMALL["arch"]}
    straight = make_run("straight", **options)
    fit(straight)

    run = make_run("cut", **options)
    save_last(run)
    with pytest.raises(CutError):
        fit(run, cut_at(1, 4))
    config, content = read_last(run.folder)
    assert (content["progress"]["epoch"], content["progress"]["batch"]) == (1, 2)
    torch.manual_seed(1)
    again = make_run("cut", **vars(config))
    restore_state(again, content)
    fit(again)
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (straight.folder, again.folder))
        for key in one["state_dict"]:
            assert torch.equal(one["state_dict"][key], other["state_dict"][key]), f"{name}: {key}"
    for one, other in zip(straight.state.history, again.state.history, strict=True):
        assert (one.train_loss, one.val_robust, one.parts) == (other.train_loss, other.val_robust, other.parts)
