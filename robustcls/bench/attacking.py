"""Contestants of the attack suite: PGD at equal steps on the same model and samples; each in its own process."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustcls.bench.training import Result, peak_memory_mb, plain_pgd
from robustcls.core.classifier import Classifier
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.evaluation.judge import judge
from robustcls.models import load
from robustcls.runtime.device import keep_freed_memory, resolve_device

BATCH = 128
Attacker = Callable[[Classifier, Tensor, Tensor, ThreatModel, dict[str, Any]], Tensor]


def robustcls(images: Images, task: dict[str, Any]) -> Result:
    """The cascade with one PGD, from clean predictions to verified verdicts."""
    keep_freed_memory()
    model, x, y, threat = _set_up(images, task)
    spec = f"pgd(steps={task['steps']})"

    def run(count: int):
        part = (x[:count], y[:count])
        return judge(model, *part, threat, [spec], kind=spec, precision=task["precision"], seed=task["seed"])

    run(8)
    started = time.perf_counter()
    evaluation = run(len(y)).evaluation
    return _result(started, evaluation.robust.accuracy, evaluation.provenance.precision)


def plain(images: Images, task: dict[str, Any]) -> Result:
    """A plain fp32 loop over all samples."""
    generator = torch.Generator(resolve_device(task["device"])).manual_seed(task["seed"])
    return _all_samples(images, task, lambda m, x, y, t, k: plain_pgd(m, x, y, t, k["steps"], generator))


def foolbox(images: Images, task: dict[str, Any]) -> Result:
    """foolbox's PGD, through its PyTorchModel."""
    import foolbox as fb

    def attacker(model, x, y, threat, task):
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device=x.device)
        family = {"linf": fb.attacks.LinfPGD, "l2": fb.attacks.L2PGD}[task["norm"]]
        made = family(abs_stepsize=2.5 * threat.eps / task["steps"], steps=task["steps"], random_start=True)
        return made(wrapped, x, y, epsilons=threat.eps)[1]

    return _all_samples(images, task, attacker)


def torchattacks(images: Images, task: dict[str, Any]) -> Result:
    """torchattacks' PGD."""
    import torchattacks as ta

    def attacker(model, x, y, threat, task):
        family = {"linf": ta.PGD, "l2": ta.PGDL2}[task["norm"]]
        return family(model, eps=threat.eps, alpha=2.5 * threat.eps / task["steps"], steps=task["steps"])(x, y)

    return _all_samples(images, task, attacker)


CONTESTANTS: dict[str, Callable[[Images, dict[str, Any]], Result]] = {
    "plain fp32 loop": plain,
    "robustcls": robustcls,
    "foolbox": foolbox,
    "torchattacks": torchattacks,
}


def _set_up(images: Images, task: dict[str, Any]) -> tuple[Classifier, Tensor, Tensor, ThreatModel]:
    device = resolve_device(task["device"])
    x, y = images.to(device).batch()
    return load(task["model"]).to(device), x, y, ThreatModel(task["norm"], parse_eps(task["eps"]))


def _all_samples(images: Images, task: dict[str, Any], attacker: Attacker) -> Result:
    warnings.simplefilter("ignore")  # of peers
    torch.manual_seed(task["seed"])
    model, x, y, threat = _set_up(images, task)
    with frozen(model):
        attacker(model, x[:8], y[:8], threat, task)
        started, right = time.perf_counter(), 0
        for images_, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            x_adv = attacker(model, images_, labels, threat, task)
            with torch.no_grad():
                stands = (model(images_).argmax(1) == labels) & (model(x_adv).argmax(1) == labels)
            right += int(stands.sum())
    return _result(started, right / len(y), "fp32")


def _result(started: float, robust_accuracy: float, precision: str) -> Result:
    return {
        "seconds": time.perf_counter() - started,
        "robust_accuracy": robust_accuracy,
        "precision": precision,
        "peak_memory_mb": peak_memory_mb(),
    }
