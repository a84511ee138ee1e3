"""What only a CUDA device can show: fp16, no waiting inside a step, the same recipe as on the CPU."""

import pytest
import torch
from test_every_combination import every_combination, nothing

from robustcls.training.loop import train

pytestmark = pytest.mark.gpu
TRAINED = {
    "arch": "tiny_run:small_cnn",
    "device": "cuda",
    "limit_train": 1000,
    "augment": "none",
    "eps": "0.05",
    "lr": 0.05,
    "val_n": 16,
}


@every_combination
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls_in_two_epochs(objective, step, precision, make_run):
    adv = "none" if objective == "standard" else "pgd(steps=1)"
    run = make_run(objective=objective, step=step, precision=precision, adv=adv, **TRAINED)
    train(run, nothing, nothing)
    assert run.history[1].train_loss < 0.95 * run.history[0].train_loss


@every_combination
@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # fp16's scaler waits where the optimizer is not fused
def test_nothing_inside_a_step_waits_for_the_device(objective, step, precision, make_run):
    adv = "none" if objective == "standard" else "pgd(steps=2)"
    augment = "crop_flip(pad=1)+cutout(size=2)+color_jitter"
    run = make_run(
        objective=objective, step=step, precision=precision, adv=adv, ema=0.9, **TRAINED | {"augment": augment}
    )
    run.begin_epoch()
    steps = run.batches()
    for number in range(3):
        x, y = next(steps)
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            run.note(run.step(run, x, y), y, 0.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_compiled_training_learns_as_much(make_run):
    losses = []
    for number, compiled in enumerate((False, True)):
        run = make_run(str(number), compile=compiled, adv="pgd(steps=2)", **TRAINED)
        train(run, nothing, nothing)
        losses.append(run.history[-1].train_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
