"""Contestants of the training suite. Same weights, same batches, same attack; each in its own process."""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.data.loader import batches
from robustcls.data.splits import choose
from robustcls.runtime.device import keep_freed_memory
from robustcls.runtime.memory import peak_memory_mb, resident_mb
from robustcls.training.config import TrainConfig
from robustcls.training.loop import train
from robustcls.training.optimizer import make_optimizer
from robustcls.training.run import Run

WARM_UP = 2
BASELINE = "plain fp32 loop"
TORCHATTACKS = "torchattacks"
EPOCHS, EPOCH_BATCHES = 4, 6
Result = dict[str, Any]


def make_run(
    images: Images, task: dict[str, Any], *, val: Images | None = None, folder: Path = Path("unused"), **changes: Any
) -> Run:
    """The run that all contestants start from: no augmentation, a constant rate."""
    options = {
        "data": "bench", "arch": task["arch"], "adv": f"pgd(steps={task['steps']})", "norm": task["norm"],
        "eps": task["eps"], "epochs": 10_000, "lr": 0.02, "schedule": "constant", "augment": "none",
        "batch_size": task["batch_size"], "device": task["device"], "precision": task["precision"],
        "seed": task["seed"],
    }  # fmt: skip
    return Run(TrainConfig(**options | changes), folder, images, images if val is None else val)


def robustcls(images: Images, task: dict[str, Any]) -> Result:
    """The training loop of robustcls, without validation and files."""
    keep_freed_memory()
    run = make_run(images, task)

    def updates():
        while True:
            for x, y in run.batches():
                loss = run.step(run, x, y)
                run.note(loss, y, 0.0)
                yield loss.total
            run.epoch, run.batch = run.epoch + 1, 0

    return _measure(updates(), task, run.batch_size, run.precision)


def plain(images: Images, task: dict[str, Any]) -> Result:
    """The loop that one writes first: fp32, NCHW, PGD by autograd on the model in eval mode."""
    threat = ThreatModel(task["norm"], parse_eps(task["eps"]))
    generator = torch.Generator(task["device"]).manual_seed(task["seed"])
    return _plain_loop(
        images, task, lambda model: lambda x, y: plain_pgd(model.eval(), x, y, threat, task["steps"], generator)
    )


def torchattacks(images: Images, task: dict[str, Any]) -> Result:
    """The same loop with the PGD of torchattacks, as its users write it."""
    import torchattacks as ta

    eps, steps = parse_eps(task["eps"]), task["steps"]
    return _plain_loop(images, task, lambda model: ta.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps))


def _plain_loop(
    images: Images, task: dict[str, Any], make: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]
) -> Result:
    """make: from the model, the attack x, y -> x_adv."""
    run = make_run(images, task | {"precision": "fp32"})  # for the same first weights, read out below
    model: nn.Module = run.model.to(memory_format=torch.contiguous_format)
    optimizer = make_optimizer(run.model, run.config)
    attack = make(model)

    def updates():
        for epoch in range(10_000):
            for x, y in batches(run.train, run.batch_size, seed=task["seed"], epoch=epoch, drop_last=True):
                x_adv = attack(x, y)
                model.train()
                loss = F.cross_entropy(model(x_adv), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield loss

    return _measure(updates(), task, run.batch_size, "fp32")


def plain_pgd(model: nn.Module, x, y, threat: ThreatModel, steps: int, generator: torch.Generator):
    """PGD as it is usually written, with the same start, step size and projection as ours."""
    step_size = 2.5 * threat.eps / steps
    x_adv = threat.random_start(x, generator)
    for _ in range(steps):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = threat.project(x_adv.detach() + step_size * threat.steepest(grad), x)
    return x_adv.detach()


def epochs(images: Images, task: dict[str, Any]) -> Result:
    """Short epochs of robustcls with validation and files: memory of each, and the time of one validation.

    task["val_images"]: how many images the data set has for validation, at most.
    """
    keep_freed_memory()
    memory: list[float] = []
    some = choose(images, max(EPOCH_BATCHES * task["batch_size"], TrainConfig.val_n))
    val = choose(images, task["val_images"])  # of the training images, for only the time counts
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(some, task, val=val, folder=Path(folder), epochs=EPOCHS, on_collapse="ignore")
        train(run, lambda _: None, lambda _: memory.append(_epoch_memory_mb()))
    return {
        "memory_per_epoch_mb": memory,
        "memory_peak_mb": max(*memory, peak_memory_mb()),
        "memory_growth_mb": memory[-1] - memory[1],
        "val_seconds": _validation_seconds(run),
    }


def _epoch_memory_mb() -> float:
    """On CUDA the peak since the last call, else what is resident now; 0 where it cannot be told."""
    if not torch.cuda.is_available():
        return resident_mb()
    peak = peak_memory_mb()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _validation_seconds(run: Run) -> float:
    started = time.perf_counter()
    run.validate(run.config.val_n)
    return time.perf_counter() - started


CONTESTANTS: dict[str, Callable[[Images, dict[str, Any]], Result]] = {
    BASELINE: plain,
    TORCHATTACKS: torchattacks,
    "robustcls": robustcls,
}
NORMS_OF = {TORCHATTACKS: ("linf",)}  # of those that do not take every norm
TURNS = CONTESTANTS | {"epochs": epochs}


def contestants_of(norm: str) -> tuple[list[str], list[str]]:
    """Those that take part at this norm, and the packages that would if they were installed."""
    asked = [name for name in CONTESTANTS if norm in NORMS_OF.get(name, (norm,))]
    missing = [name for name in asked if name == TORCHATTACKS and importlib.util.find_spec(name) is None]
    return [name for name in asked if name not in missing], missing


def _measure(updates, task: dict[str, Any], batch_size: int, precision: str) -> Result:
    losses, started = [], 0.0
    for number, loss in zip(range(task["updates"]), updates, strict=False):
        losses.append(loss.detach())
        if number + 1 == WARM_UP:
            losses = [value.item() for value in losses]  # waits for the device
            started = time.perf_counter()
    last = float(losses[-1])
    seconds = time.perf_counter() - started
    assert last == last, "the loss is not a number"
    return {
        "images_per_second": batch_size * (task["updates"] - WARM_UP) / seconds,
        "precision": precision,
        "losses": [float(value) for value in losses],
        "peak_memory_mb": peak_memory_mb(),
    }
