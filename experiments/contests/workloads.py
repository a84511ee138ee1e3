"""Contestants of the training suites: the loop of robustcls, a plain loop, and the plain loop with torchattacks' attack.

All use the same weights, batches and attack. A workload is clean, fgsm_rs, pgdN or tradesN, with N steps.
"""

import gc
import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from experiments.contests.tables import BASELINE
from robustcls.bench.training import (
    BETA,
    FGSM_STEP,
    Result,
    Task,
    make_run,
    measure,
    parse_workload,
    threat_of,
    time_training,
)
from robustcls.core.threat import ThreatModel
from robustcls.data.images import Images, batches
from robustcls.runtime.device import keep_freed_memory, search_for_fastest_convolutions
from robustcls.training.optimizer import make_optimizer

PlainLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # model, x, y -> loss
TORCHATTACKS = "torchattacks"


def plain_loss(workload: str, threat: ThreatModel, generator: Generator) -> PlainLoss:
    """Return the loss as in the code of the papers: attacks in eval mode, updates in train mode."""
    kind, steps = parse_workload(workload)
    attack = partial(plain_pgd, threat=threat, generator=generator, steps=steps)

    def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model.train()(x), y)

    def trades(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            clean = model.eval()(x).softmax(1)
        x_adv = attack(model, x, clean, loss=divergence)
        logits, adversarial = model.train()(x), model(x_adv)
        return F.cross_entropy(logits, y) + BETA * divergence(adversarial, logits.softmax(1))

    losses: dict[str, PlainLoss] = {
        "clean": cross_entropy,
        "fgsm_rs": lambda model, x, y: cross_entropy(
            model, attack(model.eval(), x, y, step_size=FGSM_STEP * threat.eps), y
        ),
        "pgd": lambda model, x, y: cross_entropy(model, attack(model.eval(), x, y), y),
        "trades": trades,
    }
    return losses[kind]


def plain_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    steps: int,
    generator: torch.Generator,
    *,
    step_size: float | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """PGD as it is usually written, with the start, step size and projection of robustcls."""
    step_size = step_size or 2.5 * threat.eps / steps
    x_adv = threat.random_start(x, generator)
    for _ in range(steps):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(x_adv), y), x_adv)
        x_adv = threat.project(x_adv.detach() + step_size * threat.steepest(grad), x)
    return x_adv.detach()


def divergence(logits: Tensor, probabilities: Tensor) -> Tensor:
    return F.kl_div(logits.log_softmax(1), probabilities, reduction="batchmean")


def robustcls(workload: str, images: Images, task: Task, threat: ThreatModel, **options: Any) -> Result:
    """The training loop of robustcls, without validation and files."""
    keep_freed_memory()
    keep_freed_memory()
    return time_training(workload, images, task, **options)


def plain(workload: str, images: Images, task: Task, threat: ThreatModel) -> Result:
    """fp32 (TF32 on CUDA), NCHW, eager."""
    generator = torch.Generator(task["device"]).manual_seed(task["seed"])
    return _plain_loop(images, task, plain_loss(workload, threat, generator))


def torchattacks(workload: str, images: Images, task: Task, threat: ThreatModel) -> Result:
    """The plain loop with the PGD of torchattacks, as its users write it; it has no attack for other workloads."""
    import torchattacks as ta

    steps = parse_workload(workload)[1]

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = ta.PGD(model.eval(), eps=threat.eps, alpha=2.5 * threat.eps / steps, steps=steps)
        x_adv = attack(x, y)
        return F.cross_entropy(model.train()(x_adv), y)

    return _plain_loop(images, task, loss)


CONTESTANTS: dict[str, Callable[..., Result]] = {
    BASELINE: plain,
    TORCHATTACKS: torchattacks,
    "robustcls": robustcls,
    "robustcls, compiled": partial(robustcls, compile=True),
    "robustcls, CUDA graphs": partial(robustcls, compile=True, cuda_graphs=True),
}
NORMS_OF = {TORCHATTACKS: ("linf",)}  # contestants that support only some norms
ON_CUDA = ("robustcls, compiled", "robustcls, CUDA graphs")


def contestants_of(norm: str, device: torch.device) -> tuple[list[str], list[str]]:
    """Return the contestants for this norm and device, and the missing packages of others."""
    able = [name for name in CONTESTANTS if norm in NORMS_OF.get(name, (norm,))]
    asked = [name for name in able if name not in ON_CUDA or device.type == "cuda"]
    missing = [name for name in asked if name == TORCHATTACKS and importlib.util.find_spec(name) is None]
    return [name for name in asked if name not in missing], missing


def take_workloads(images: Images, task: Task) -> dict[str, Result]:
    """Return what the contestant measured in each workload that it supports, or its error in one line."""
    if task["device"].startswith("cuda"):
        search_for_fastest_convolutions()
        torch.set_float32_matmul_precision("high")
    threat = threat_of(task)
    results: dict[str, Result] = {}
    for workload in task["workloads"]:
        if task["contestant"] == TORCHATTACKS and not workload.startswith("pgd"):
            continue
        try:
            results[workload] = CONTESTANTS[task["contestant"]](workload, images, task, threat)
        except Exception as error:  # other libraries may raise anything; the GPU may be too small
            results[workload] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        gc.collect()  # a compiled run is a reference cycle, and would hold memory that the next one needs
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return results


def _plain_loop(images: Images, task: Task, loss: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Result:
    run = make_run(images, task | {"precision": "fp32"})  # for the same initial weights
    model: nn.Module = run.state.model.to(memory_format=torch.contiguous_format)
    optimizer = make_optimizer(run.state.model, run.config)

    def updates() -> Iterator[Tensor]:
        for epoch in range(10_000):
            for x, y in batches(run.train, run.batch_size, seed=task["seed"], epoch=epoch, drop_last=True):
                value = loss(model, x, y)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                yield value

    return measure(updates(), task, run.batch_size, "fp32")
