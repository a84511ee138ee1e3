"""Counts the samples that reach their target under targeted Auto-PGD and torchattacks' targeted PGD, at equal steps.

    PYTHONPATH=.:../shared/models python experiments/contests/targeted.py --model runs/pgd/ckpt.pt --eps 8/255 \
        --model third_party:cnn_a_adv4 --eps 4/255 --out reports/contests/targeted.json

Targets and samples are the same for all attacks.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

import robustcls
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.losses import VERDICT_TIE
from robustcls.core.provenance import versions
from robustcls.core.threat import BALL, ThreatModel

OURS = ("apgd_ce", "apgd_dlr", "pgd")
STEP = 2 / 255  # the default step of torchattacks' PGD, for eps = 8/255
RULES = ("second", "random", "least_likely")


@click.command()
@click.option(
    "--model", "models", multiple=True, required=True, metavar="M", help="Model, as for `robustcls attack`; repeatable."
)
@click.option("--eps", "radii", multiple=True, required=True, metavar="EPS", help="Radius in linf, one for each model.")
@click.option("--data", default="cifar10", metavar="SPEC")
@click.option("--n", default=200, help="Number of samples of the test split.")
@click.option("--steps", "lengths", multiple=True, type=int, default=(10, 20, 50))
@click.option("--seeds", default=3)
@click.option("--out", required=True, metavar="FILE.json")
def command(
    models: tuple[str, ...], radii: tuple[str, ...], data: str, n: int, lengths: tuple[int, ...], seeds: int, out: str
):
    """Count the samples that reach their target under each attack, verified on the same fp32 model."""
    if len(models) != len(radii):
        raise InputError(f"{len(models)} models and {len(radii)} radii: give --eps once for each --model")
    peer = importlib.import_module("torchattacks")
    x, y = robustcls.load_data(data, n=n)
    found = []
    for spec, eps in zip(models, radii, strict=True):
        model, threat = robustcls.load(spec, input_size=x.shape[1:]), ThreatModel.parse(f"linf:{eps}")
        for rule in RULES:
            for seed in range(seeds):
                target = targets_of(model, x, y, rule, seed)
                found += [
                    {"model": Path(spec).parent.name or spec, "eps": eps, "target": rule, "seed": seed, "steps": steps,
                     "n": len(y)} | counts(peer, model, x, y, target, threat, steps, seed)
                    for steps in lengths
                ]  # fmt: skip
                click.echo(json.dumps(found[-1]))
    result = {"data": Path(data).name, "results": found, "versions": versions() | {"torchattacks": peer.__version__}}
    Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def targets_of(model: nn.Module, x: Tensor, y: Tensor, rule: str, seed: int) -> Tensor:
    """Return the targets N: random by the seed, or chosen by the logits of the clean images."""
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -torch.inf)
    if rule == "random":
        drawn = torch.randint(others.shape[1] - 1, y.shape, generator=torch.Generator().manual_seed(seed))
        return drawn + (drawn >= y)
    return others.argmax(1) if rule == "second" else others.masked_fill(others.isinf(), torch.inf).argmin(1)


def counts(
    peer: Any, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel, steps: int, seed: int
) -> dict[str, int]:
    """Return the number of samples that reach their target, by attack."""

    def torchattacks_pgd(step: float) -> Tensor:
        torch.manual_seed(seed)
        attack = peer.PGD(model, eps=threat.eps, alpha=step, steps=steps)
        attack.set_mode_targeted_by_label(quiet=True)
        return attack(x, target)

    attacks: dict[str, Callable[[], Tensor]] = {
        f"robustcls {name}": lambda name=name: robustcls.attack(
            model, x, y, threat, f"{name}(steps={steps})", target=target, seed=seed
        )
        for name in OURS
    }
    attacks["torchattacks PGD, its step"] = lambda: torchattacks_pgd(STEP * threat.eps / (8 / 255))
    attacks["torchattacks PGD, step 2.5 eps / steps"] = lambda: torchattacks_pgd(2.5 * threat.eps / steps)
    return {name: reached(model, attack(), x, target, threat) for name, attack in attacks.items()}


@torch.no_grad()
def reached(model: nn.Module, x_adv: Tensor, x: Tensor, target: Tensor, threat: ThreatModel) -> int:
    """Count the images inside ball and box that the model classifies as the target, by more than a tie."""
    x_adv = x_adv.detach().to(device_of(model))
    inside = (
        (threat.distance(x_adv, x) <= threat.eps + BALL)
        & (x_adv.flatten(1).amin(1) >= 0)
        & (x_adv.flatten(1).amax(1) <= 1)
    )
    logits = model(x_adv)
    first, second = logits.topk(2, dim=1).values.unbind(1)
    clear = first - second > VERDICT_TIE * torch.maximum(first.abs(), second.abs())
    return int((inside & clear & (logits.argmax(1) == target)).sum())


if __name__ == "__main__":
    command()
