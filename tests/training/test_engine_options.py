"""What the options of training do to an update, an epoch and a run folder."""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY, same
from torch import nn
from torch.nn import functional as F

from robustcls.cli.main import main
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.models.checkpoint import restore
from robustcls.runtime.fused import FusedModel, scale_gradients
from robustcls.training.checkpoint import read_last, restore_state
from robustcls.training.loop import fit
from robustcls.training.rehearsal import fit_epochs

SMALL = {"arch": "tiny_run:small_cnn", "augment": "none"}
TINIEST = {"arch": "test_engine_options:tiny_net", "augment": "none"}
FLAT = {"arch": "test_engine_options:flat_net", "augment": "none"}


def flat_net(num_classes, input_size):
    """Without BatchNorm, so that a batch is the sum of its images."""
    inputs = input_size[0] * input_size[1] * input_size[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Softplus(), nn.Linear(16, num_classes))


def tiny_net(num_classes, input_size):
    """A convolution, a BatchNorm and a linear layer: as little as there is to compile."""
    layers = [nn.Conv2d(input_size[0], 4, 3, stride=4, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, num_classes))


class CutError(Exception):
    """As a SIGKILL: nothing is saved, what is on disk stays."""


def nothing(_):
    pass


def brighter(_model, x, _y, **_options):
    return (x + 0.1).clamp(0, 1)


def first_batch(run):
    run.state.train_mode()
    return next(iter(run.batches()))


def named_gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def values_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# One update


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts, make_run):
    run = make_run(**FLAT, accumulate=parts)
    whole = copy.deepcopy(run.state.model)
    x, y = first_batch(run)
    seen = []
    loss = run.state.gradient(x, y, lambda model, x, y: seen.append(len(x)) or brighter(model, x, y))
    assert seen == [32 // parts] * parts
    logits = whole(brighter(None, x, y))
    expected = F.cross_entropy(logits, y)
    expected.backward()
    for name, gradient in named_gradients(whole).items():
        assert torch.allclose(run.state.model.get_parameter(name).grad, gradient, atol=1e-6), name
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(loss.logits, logits, atol=1e-6)


def test_awp_with_parts_is_awp_on_the_whole_batch(make_run):
    states, calls = [], []
    for parts in (1, 4):
        run = make_run(f"in {parts}", **FLAT, step="awp(gamma=0.05, warmup=0.0)", accumulate=parts)
        run.state.attack = lambda model, x, y: calls.append(len(x)) or brighter(model, x, y)
        before = values_of(run.state.model)
        run.state.step(run.state, *first_batch(run))
        states.append(values_of(run.state.model))
    assert calls == [32, 8, 8, 8, 8]  # each part is attacked once, not again at the worse weights
    for name in before:
        assert torch.allclose(states[0][name], states[1][name], atol=1e-6), name
    assert not torch.allclose(states[0]["net.1.weight"], before["net.1.weight"], atol=1e-4)


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_clipping_is_torchs_own(clip, make_run):
    run = make_run(**SMALL, clip=clip, schedule="constant", weight_decay=0.0, momentum=0.0)
    model = copy.deepcopy(run.state.model).train()
    x, y = first_batch(run)
    run.state.attack = brighter
    run.state.step(run.state, x, y)
    F.cross_entropy(model(brighter(None, x, y)), y).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert 0.01 < norm < 1e6
    moved = torch.stack(
        [(p - q).norm() for p, q in zip(run.state.model.parameters(), model.parameters(), strict=True)]
    ).norm()
    assert moved.item() == pytest.approx(0.1 * min(norm, clip), rel=1e-3)  # a step of plain SGD with lr 0.1
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for (name, p), q in zip(run.state.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6), name


def test_adamw_is_its_papers_update(make_run):
    lr, decay, (b1, b2) = 0.01, 0.3, (0.8, 0.999)
    options = {"optimizer": "adamw", "lr": lr, "weight_decay": decay, "momentum": b1, "schedule": "constant"}
    run = make_run(**SMALL, **options)
    x, y = first_batch(run)
    run.state.attack = brighter
    values = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    m = {name: torch.zeros_like(p) for name, p in values.items()}
    v = copy.deepcopy(m)
    for t in (1, 2, 3):
        run.state.step(run.state, x, y)
        for name, gradient in named_gradients(run.state.model).items():
            if values[name].ndim > 1:
                values[name] *= 1 - lr * decay
            m[name] = b1 * m[name] + (1 - b1) * gradient
            v[name] = b2 * v[name] + (1 - b2) * gradient**2
            values[name] -= lr * (m[name] / (1 - b1**t)) / ((v[name] / (1 - b2**t)).sqrt() + 1e-8)
    for name, p in run.state.model.named_parameters():
        assert torch.allclose(p, values[name], atol=1e-5), name


@pytest.mark.parametrize("objective", ["standard", "adversarial", "adversarial(mix=0.25)", "trades(beta=0.0)"])
def test_label_smoothing_of_a_spec(objective, make_run):
    name, _, options = objective.rstrip(")").partition("(")
    options = f"{options}, label_smoothing=0.2" if options else "label_smoothing=0.2"
    run = make_run(**FLAT, objective=f"{name}({options})", adv="none" if name == "standard" else "pgd")
    x, y = first_batch(run)

    def smoothed(images):
        logs = run.state.model(images).log_softmax(1)
        return -(0.8 * logs.gather(1, y[:, None]).squeeze(1) + 0.2 * logs.mean(1)).mean()

    clean, attacked = smoothed(x).item(), smoothed(brighter(None, x, y)).item()
    mixed = 0.25 * clean + 0.75 * attacked if "mix" in objective else attacked
    expected = clean if name in ("standard", "trades") else mixed
    assert run.state.gradient(x, y, brighter).total.item() == pytest.approx(expected, abs=1e-5)
    assert abs(clean - attacked) > 1e-3


# The learning rate


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("piecewise(first=0.4, second=0.8, factor=0.2)", [1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04]),
        ("cyclic(cycles=2, low=0.1)", [0.28, 0.64, 1, 0.64, 0.28, 0.28, 0.64, 1, 0.64, 0.28]),
    ],
)
def test_rates_reach_the_optimizer(schedule, shares, make_run):
    run = make_run(**FLAT, adv="none", lr=0.5, schedule=schedule)
    rates = []
    fit(run, lambda run: rates.append({group["lr"] for group in run.state.optimizer.param_groups}), nothing)
    assert [len(each) for each in rates] == [1] * 10
    assert [max(each) for each in rates] == pytest.approx([0.5 * share for share in shares])


# Averages


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

    fit(run, nothing, on_epoch)
    assert ends == [(0, False, 0), (0, False, 0), (1, True, 5), (2, True, 10)]
    for name, p in run.state.average.model.named_parameters():
        assert torch.allclose(p, (trained[2][name] + trained[3][name]) / 2, atol=1e-7), name
    # The forwards are those of the objective, on draws that training did not see.
    anew = [x for stream, x in own if stream is not None]
    for x, forward in zip(anew, seen, strict=True):
        assert (x - forward).abs().max().item() <= (0.15 + 1e-6 if adv == "fgsm" else 0)
        assert torch.equal(x, forward) == (adv == "none")
    assert not any(torch.equal(x, y) for x in anew for stream, y in own if stream is None)
    # BatchNorm's statistics: the mean over the forwards of each one's mean and unbiased variance, by hand.
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

    fit(run, nothing, on_epoch)
    raw, average = run.state.model, run.state.average.model
    assert validated == [raw, average, average]  # 2 > 0.6 * 3
    assert same(saved, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"swa": 0.3},
        {"swa": 0.3, "optimizer": "adamw", "lr": 0.01, "clip": 0.5, "accumulate": 2},
        {"augment": "cutmix", "ema": 0.8},
        {"augment": "crop_flip+cutmix", "objective": "trades", "adv": "pgd(steps=1)", "swa": 0.3},
    ],
    ids=["swa", "swa and all", "cutmix", "cutmix with trades"],
)
def test_a_run_that_was_cut_off_ends_bit_equal(options, make_run):
    options = {**SMALL, "epochs": 3, "save_every": 2, "adv": "fgsm", **options}
    straight = make_run("straight", **options)
    fit(straight, nothing, nothing)

    def cut(run):
        if (run.state.epoch, run.state.batch) == (2, 3):
            raise CutError

    run = make_run("cut", **options)
    with pytest.raises(CutError):
        fit(run, cut, nothing)
    config, content = read_last(run.folder)
    torch.manual_seed(7)
    again = make_run("cut", **vars(config))
    restore_state(again, content)
    assert (again.state.epoch, again.state.batch) == (2, 2)
    fit(again, nothing, nothing)
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(run.folder / name, weights_only=True) for run in (straight, again))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), f"{name}: {key}"


# Compiled, deterministic


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler")
def test_a_compiled_run_trains_to_nearly_the_same_weights(make_run):
    states = []
    for compiled in (False, True):
        run = make_run(f"{compiled}", **TINIEST, compile=compiled, epochs=1, adv="fgsm")
        fit(run, nothing, nothing)
        states.append(torch.load(run.folder / "ckpt.pt", weights_only=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # it was compiled indeed
    plain, fast = (content["state_dict"] for content in states)
    start = tiny_net(10, (1, 8, 8)).state_dict()
    assert list(plain) == list(fast) == list(start)
    for name, tensor in plain.items():
        assert torch.allclose(fast[name].float(), tensor.float(), atol=1e-3), name
    model, _ = restore(states[1], "ckpt.pt", trusted=TINIEST["arch"])
    twin = FusedModel(run.state.model)
    x = torch.rand(4, 1, 8, 8)
    assert torch.allclose(model(x), twin(x), atol=1e-3)


def python(code, folder):
    """Runs code in a process of its own; it finds the test modules."""
    found = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    known = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=known | {"PYTHONPATH": found},
        capture_output=True,
        text=True,
        timeout=120,
    )


FLAGS = ["--data", "digits(size=8)", "--arch", "tiny_run:small_cnn", "--limit-train", "96", "--val-n", "20"]
FLAGS += ["--val-attack", "fgsm", "--batch-size", "32", "--device", "cpu", "--precision", "fp32"]

DETERMINISTIC = """
import os, json, torch
from robustcls.cli.main import main
from robustcls.runtime.device import make_deterministic
torch.backends.cudnn.benchmark = True
before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
try:
    main(["train", *{flags}, "--deterministic", "--epochs", "1", "--out", "run", "--quiet"])
except SystemExit as end:
    assert end.code == 0
assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()) == before
state = [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark]
state += [os.environ["CUBLAS_WORKSPACE_CONFIG"]]
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
make_deterministic()
print(json.dumps([*state, os.environ["CUBLAS_WORKSPACE_CONFIG"]]))
"""


def test_deterministic_holds_for_the_process(tmp_path):
    done = python(DETERMINISTIC.format(flags=FLAGS), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, ":4096:8", ":16:8"]
    assert not torch.are_deterministic_algorithms_enabled()


# What is written


def test_save_every_writes_between_epochs(make_run):
    run, saved = make_run(**SMALL, adv="none", save_every=2), []

    def look(run):
        progress = read_last(run.folder)[1]["progress"] if (run.folder / "last.pt").exists() else {}
        saved.append((progress.get("epoch"), progress.get("batch")))

    fit(run, look, nothing)
    one, two = [(None, None), (None, None), (0, 2), (0, 2), (0, 4)], [(1, 0), (1, 0), (1, 2), (1, 2), (1, 4)]
    assert saved == one + two


FULL = """
import resource, signal, torch
from robustcls.cli.main import main
torch.set_num_threads({threads})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main(["train", *{flags}, "--out", "full", "--quiet"])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on the size of files")
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    flags = [*FLAGS, "--epochs", "2", "--optimizer", "adamw", "--lr", "0.01", "--adv", "fgsm"]
    straight = tmp_path / "straight"
    with pytest.raises(SystemExit, match="0"):
        main(["train", *flags, "--out", str(straight), "--quiet"])
    weights, whole = ((straight / name).stat().st_size for name in ("ckpt.pt", "last.pt"))
    assert whole > 2 * weights  # the first last.pt has no moments yet, and fits
    done = python(FULL.format(limit=(weights + whole) // 2, flags=flags, threads=torch.get_num_threads()), tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("robustcls: cannot write full/last.pt: ")
    assert done.stderr.count("\n") == 1
    full = tmp_path / "full"
    assert not list(full.glob(".*"))
    assert read_last(full)[1]["progress"]["epoch"] == 0
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--resume", str(full), "--quiet"])
    for name in ("ckpt.pt", "last.pt"):
        one, other = (torch.load(folder / name, weights_only=True) for folder in (straight, full))
        for key in one.keys() - {"meta"}:
            assert same(one[key], other[key]), f"{name}: {key}"


def test_tensorboard_gets_scalars_and_images(make_run):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(**SMALL, track=("tensorboard",), epochs=3, track_images=2, objective="trades", adv="pgd(steps=1)")
    fit(run, nothing, nothing)
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name, field in (("train/loss", "train_loss"), ("val/robust", "val_robust"), ("val/clean", "val_clean")):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        rows = enumerate(run.state.history, start=1)
        assert points == [(160 * number, pytest.approx(getattr(row, field), rel=1e-6)) for number, row in rows]
    assert [event.value for event in events.Scalars("parts/kl")] == pytest.approx(
        [r.parts["kl"] for r in run.state.history]
    )
    (image,) = events.Images("adversarial")  # of the second epoch of three
    assert image.step == 320
    pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)), np.float32) / 255
    assert pixels.shape == (3 * 10 + 2, 8 * 10 + 2, 3)  # clean, adversarial, difference: eight of each, with borders
    clean, attacked = pixels[2:10], pixels[12:20]
    assert 0 < np.abs(clean - attacked).max() <= 0.15 + 1 / 255


# The fp16 path of the search twin, which only CUDA takes by itself


class RoundsBackward(torch.autograd.Function):
    """Passes forward as it is; gradients round to fp16, as on a GPU's fp16 units."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.half().float()


class Confident(nn.Module):
    """The first logit leads by these margins: the gradient of cross-entropy is below what fp16 holds, 6e-8."""

    def __init__(self, margins, *, rounds):
        super().__init__()
        self.linear, self.margins, self.rounds = nn.Linear(16, 3), torch.tensor(margins), rounds

    def forward(self, x):
        logits = self.linear(x.flatten(1)) + self.margins[:, None] * torch.tensor([1.0, 0.0, 0.0])
        return RoundsBackward.apply(logits) if self.rounds else logits


def gradient_of(model, x, y, *, scaled):
    x = x.clone().requires_grad_()
    images = x * 1.0
    logits = model(images)
    if scaled:
        scale_gradients(images, logits)
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)[0]


def confident_pair():
    margins = [0.0, 25.0, 40.0, 3.0]
    net, exact = Confident(margins, rounds=True), Confident(margins, rounds=False)
    exact.load_state_dict(net.state_dict())
    return net, exact, torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.long)


def test_gradients_that_fp16_would_lose_are_kept():
    net, exact, x, y = confident_pair()
    expected = gradient_of(exact, x, y, scaled=False)
    size = expected.flatten(1).norm(dim=1)
    assert size[0] > 1e-2
    assert 0 < size[2] < 1e-15 < size[1] < 1e-8
    lost = gradient_of(net, x, y, scaled=False)
    assert (lost[1:3] == 0).all()
    kept = gradient_of(net, x, y, scaled=True)
    for found, wanted in zip(kept, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0.01, atol=0.002 * wanted.abs().max().item())
    assert torch.equal(gradient_of(exact, x, y, scaled=True), expected)  # powers of two change no digit


def test_a_sample_without_a_gradient_stays_without():
    net, _, x, y = confident_pair()
    with torch.no_grad():
        net.linear.weight.zero_()
    assert torch.equal(gradient_of(net, x, y, scaled=True), torch.zeros_like(x))


def test_the_twin_scales_in_fp16_alone():
    margins = [0.0, 18.0, 40.0, 3.0]
    y, x = torch.zeros(4, dtype=torch.long), torch.rand(4, 1, 4, 4)
    for precision, rounds in (("fp16", True), ("bf16", True), ("fp32", True)):
        net, exact = Confident(margins, rounds=rounds), Confident(margins, rounds=False)
        exact.load_state_dict(net.state_dict())
        found = input_gradient(FusedModel(net, precision), x, y).flatten(1)
        wanted = input_gradient(exact, x, y).flatten(1)
        cosines = F.cosine_similarity(found.double(), wanted.double(), eps=1e-60)
        assert (cosines > 0.99).tolist() == ([True] * 4 if precision == "fp16" else [True, False, False, True])


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


def test_cuda_graphs_need_cuda(make_run):
    with pytest.raises(InputError, match="`cuda_graphs` needs a CUDA device"):
        make_run(**TINIEST, cuda_graphs=True)
