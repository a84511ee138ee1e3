"""Behaviour that only a CUDA device can show: fp16, no waiting inside a step, replayed attacks, verdicts without TF32."""

import pytest
import torch

from robustcls.core.gradients import input_gradient
from robustcls.runtime.device import exact_fp32
from robustcls.runtime.fused import Counted, FusedModel
from robustcls.training.loop import fit
from tests.helpers.combinations import every_combination

pytestmark = pytest.mark.gpu
TRAINED = {
    "arch": "tests.helpers.tiny_run:small_cnn",
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
    fit(run)
    assert run.state.history[1].train_loss < 0.95 * run.state.history[0].train_loss


@every_combination
@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # the scaler of fp16 waits if the optimizer is not fused
def test_nothing_inside_a_step_waits_for_the_device(objective, step, precision, make_run):
    adv = "none" if objective == "standard" else "pgd(steps=2)"
    augment = "crop_flip(pad=1)+cutout(size=2)+color_jitter"
    run = make_run(
        objective=objective, step=step, precision=precision, adv=adv, ema=0.9, **TRAINED | {"augment": augment}
    )
    run.state.train_mode()
    steps = run.batches()
    for number in range(3):
        x, y = next(steps)
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            run.state.train_step(x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("how", [{"compile": True}, {"cuda_graphs": True}, {"compile": True, "cuda_graphs": True}])
def test_compiled_training_learns_as_much(how, make_run):
    losses = []
    for number, options in enumerate(({}, how)):
        run = make_run(str(number), **options, adv="pgd(steps=2)", **TRAINED)
        fit(run)
        losses.append(run.state.history[-1].train_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_what_a_replayed_twin_gave_is_not_overwritten(make_run):
    run = make_run(cuda_graphs=True, precision="fp32", **TRAINED)
    plain = FusedModel(run.state.model)
    batches = list(zip(range(6), run.batches(), strict=False))
    for _ in range(2):  # recorded in the first passes, then replayed
        with exact_fp32():
            found = [input_gradient(run.state.twins[run.state.model], x, y) for _, (x, y) in batches]
            expected = [input_gradient(plain, x, y) for _, (x, y) in batches]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_verdict_is_fp32_though_convolutions_are_tf32_by_default():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    model = torch.nn.Sequential(conv, torch.nn.Flatten(), torch.nn.Linear(64 * 64, 10))
    x = torch.rand(8, 64, 8, 8)
    expected = model.double()(x.double()).float()
    model = model.float().cuda()
    error = (Counted(model)(x.cuda()).cpu() - expected).abs().max()
    with torch.no_grad():
        by_default = (model(x.cuda()).cpu() - expected).abs().max()
    assert error < 1e-5
    assert error < by_default / 5
