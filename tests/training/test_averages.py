"""Averaged weights, against their formulas."""

import copy
import math

import pytest
import torch
from torch import nn

from robustcls.training.averages import Ema
from robustcls.training.loop import fit
from tests.helpers.tiny_run import SMALL, TINY, same, values_of


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.tensor(0.5))


@pytest.mark.parametrize("decay", [0.05, 0.25, 0.999])
def test_the_average_in_closed_form(decay):
    net = Net()
    ema = Ema(net, decay)
    start = net.weight.detach().clone()
    steps = [torch.tensor([float(t), t * t / 10]) for t in range(1, 7)]
    for t, weight in enumerate(steps):
        with torch.no_grad():
            net.weight.copy_(weight)
            net.mean.fill_(t)
        net.seen += 1
        ema.after_update(net)
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(6)]
    expected = math.prod(decays) * start
    for t, weight in enumerate(steps):
        expected = expected + (1 - decays[t]) * math.prod(decays[t + 1 :]) * weight
    assert torch.allclose(ema.model.weight, expected, rtol=1e-6)
    assert ema.model.mean.item() == 5  # buffers have their latest values
    assert ema.model.seen.item() == 6
    assert (ema.updates, ema.model.weight.requires_grad) == (6, False)
    assert torch.equal(net.weight, steps[-1])


@pytest.mark.parametrize("adv", ["none", "fgsm"])
def test_swa_is_the_plain_mean_from_its_start_on(adv, make_run):
    run = make_run(**SMALL | {"augment": TINY["augment"]}, adv=adv, epochs=4, swa=0.5)
    trained, seen, ends = [], [], []

    def hook(module, inputs):
        if module.training:
            seen.append(inputs[0].clone())

    run.state.average.model.register_forward_pre_hook(hook)
    batches, own = run.batches, []

    def spy(**options):
        for x, y in batches(**options):
            own.append((options.get("stream"), x))
            yield x, y

    run.batches = spy

    def on_epoch(_row):
        trained.append({name: p.detach().clone() for name, p in run.state.model.named_parameters()})
        ends.append((run.state.average.updates, run.state.eval_model is run.state.average.model, len(seen)))

    fit(run, on_epoch=on_epoch)
    assert ends == [(0, False, 0), (0, False, 0), (1, True, 5), (2, True, 10)]
    for name, p in run.state.average.model.named_parameters():
        assert torch.allclose(p, (trained[2][name] + trained[3][name]) / 2, atol=1e-7), name
    # The forward passes are those of the objective, on augmented images that training did not use.
    anew = [x for stream, x in own if stream is not None]
    for x, forward in zip(anew, seen, strict=True):
        assert (x - forward).abs().max().item() <= (0.15 + 1e-6 if adv == "fgsm" else 0)
        assert torch.equal(x, forward) == (adv == "none")
    assert not any(torch.equal(x, y) for x in anew for stream, y in own if stream is None)
    # By hand, the BatchNorm statistics are the means, over the passes, of each pass's mean and unbiased variance.
    model, inputs = copy.deepcopy(run.state.average.model).train(), {}
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, module in norms.items():
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        for x in seen[5:]:
            model(x)
    for name, values in inputs.items():
        found = run.state.average.model.get_submodule(name)
        mean = torch.stack([value.mean((0, 2, 3)) for value in values]).mean(0)
        variance = torch.stack([value.transpose(0, 1).flatten(1).var(1) for value in values]).mean(0)
        assert torch.allclose(found.running_mean, mean, atol=1e-5), name
        assert torch.allclose(found.running_var, variance, rtol=1e-4), name
        assert (found.momentum, found.num_batches_tracked.item(), found.training) == (0.1, 5, False)
    assert len(inputs) == 2


def test_before_its_start_the_raw_model_is_validated_and_saved(make_run, monkeypatch):
    run = make_run(**SMALL, epochs=3, swa=0.6)
    accuracies = iter([0.1, 0.2, 0.3])
    validated, saved, expected = [], [], []

    def measured(count):
        validated.append(run.state.eval_model)
        accuracy = next(accuracies)
        return {"train_clean": 0.5, "val_clean": 0.5, "val_robust": accuracy, "val_fgsm": accuracy}

    monkeypatch.setattr(run, "validate", measured)

    def on_epoch(_row):
        saved.append(torch.load(run.folder / "ckpt.pt", weights_only=True)["state_dict"])
        expected.append(values_of(run.state.eval_model.net))

    fit(run, on_epoch=on_epoch)
    raw, average = run.state.model, run.state.average.model
    assert validated == [raw, average, average]  # SWA starts with epoch 2 > 0.6 * 3
    assert same(saved, expected)
