"""Contestants of the training suite. Same weights, same batches, same attack; each in its own process."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.data.loader import batches
from robustcls.runtime.device import keep_freed_memory
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.config import TrainConfig
from robustcls.training.optimizer import make_optimizer
from robustcls.training.run import Run

WARM_UP = 2
BASELINE = "plain fp32 loop"
Result = dict[str, Any]


def make_run(images: Images, task: dict[str, Any]) -> Run:
    """The run that both contestants start from: no augmentation, a constant rate."""
    config = TrainConfig(
        data="bench", arch=task["arch"], adv=f"pgd(steps={task['steps']})", norm=task["norm"], eps=task["eps"],
        epochs=10_000, lr=0.02, schedule="constant", augment="none", batch_size=task["batch_size"],
        device=task["device"], precision=task["precision"], seed=task["seed"],
    )  # fmt: skip
    return Run(config, Path("unused"), images, images)


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
    run = make_run(images, task | {"precision": "fp32"})  # for the same first weights, read out below
    model: nn.Module = run.model.to(memory_format=torch.contiguous_format)
    optimizer = make_optimizer(run.model, run.config)
    threat, steps = ThreatModel(task["norm"], parse_eps(task["eps"])), task["steps"]
    generator = torch.Generator(run.device).manual_seed(task["seed"])

    def updates():
        for epoch in range(10_000):
            for x, y in batches(run.train, run.batch_size, seed=task["seed"], epoch=epoch, drop_last=True):
                x_adv = plain_pgd(model.eval(), x, y, threat, steps, generator)
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


CONTESTANTS: dict[str, Callable[[Images, dict[str, Any]], Result]] = {BASELINE: plain, "robustcls": robustcls}


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
