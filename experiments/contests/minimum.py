"""Compares minimum-norm attacks with those of adv-lib and foolbox at equal passes, by AttackBench's optimality.

Optimality (Cina et al. 2024, arXiv:2404.19460) is 1 minus the area between an attack's security curve and the best curve,
divided by that area for an attack that finds nothing. The best curve takes the nearest example of each sample that any attack
found, and the area ends at the farthest of these. Every example is clipped to [0, 1] and judged by the fp32 model.

    python -m experiments.contests.minimum --model ckpt.pt --model mylab.nets:net --data cifar10 --out FILE.json

Result: reports/contests/minimum.json.
"""

import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

import robustcls
from robustcls.core.gradients import frozen
from robustcls.core.provenance import versions
from robustcls.core.threat import ThreatModel
from robustcls.runtime.fused import Counted

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
FOOLBOX = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack", "l0": "L0FMNAttack"}
TIE = 1e-3  # relative difference within which two distances count as equal
RUNS = 20  # bisection steps of adv-lib's minimal_apgd
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@click.command()
@click.option(
    "--model", "models", multiple=True, required=True, metavar="M", help="Model, as for `robustcls attack`; repeatable."
)
@click.option("--data", default="cifar10", metavar="SPEC")
@click.option("--n", default=100, help="Number of samples of the test split.")
@click.option("--passes", default=500, help="Forward and backward passes that each attack may use on a sample.")
@click.option("--norm", "norms", multiple=True, default=tuple(ORDERS), help="Norm; repeatable.")
@click.option("--peers", metavar="FOLDER", help="Folder where adv-lib is installed, if not in the same environment.")
@click.option("--out", required=True, metavar="FILE.json")
def command(
    models: tuple[str, ...], data: str, n: int, passes: int, norms: tuple[str, ...], peers: str | None, out: str
):
    """Measure optimality and distances of each attack on the samples that the model classifies correctly."""
    sys.path += [peers] if peers else []
    images, labels = robustcls.load_data(data, n=n)
    results = []
    for spec in models:
        model = robustcls.load(spec, input_size=images.shape[1:])
        with torch.no_grad():
            right = model(images).argmax(1) == labels
        x, y = images[right], labels[right]
        for norm in norms:
            name = spec.rpartition(":")[2] if ":" in spec else Path(spec).parent.name
            found = contest(model, x, y, norm, passes)
            results.append({"model": name, "norm": norm, "n": len(y), "attacks": found})
            click.echo(json.dumps(results[-1], indent=1))
    used = versions() | {"adv-lib": metadata.version("adv-lib")}
    text = json.dumps(
        {"data": data.partition(":")[0], "passes": passes, "results": results, "versions": used}, indent=1
    )
    Path(out).write_text(text + "\n", encoding="utf-8")


def contest(model: nn.Module, x: Tensor, y: Tensor, norm: str, passes: int) -> dict[str, dict[str, Any]]:
    """Return for each attack optimality, distances and passes, and how often our first attack is nearer or farther."""
    distances, used = {}, {}
    for name, attack in attacks(norm, passes):
        counted = Counted(model)
        with warnings.catch_warnings(), frozen(counted):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            x_adv = attack(counted, x.clone(), y.clone()).detach().clamp(0, 1)
        with torch.no_grad():
            wrong = model(x_adv).argmax(1) != y
        distances[name] = ThreatModel(norm, 1).distance(x_adv, x).double().where(wrong, torch.inf)
        used[name] = {"forwards": counted.forwards / len(y), "backwards": counted.backwards / len(y)}
        click.echo(f"{norm} {name}: median {distances[name].median():.5g}", err=True)
    score, first = optimality(distances), next(iter(distances.values()))
    return {
        name: {
            "optimality": round(score[name], 4),
            "median": round(size.median().item(), 5) if size.median().isfinite() else None,
            "mean": round(size.mean().item(), 5) if size.isfinite().all() else None,
            "not_found": int((~size.isfinite()).sum()),
            "first_is_nearer": int((first < size * (1 - TIE)).sum()),
            "first_is_farther": int((first > size * (1 + TIE)).sum()),
        } | {key: round(value, 1) for key, value in used[name].items()}
        for name, size in sorted(distances.items(), key=lambda item: -score[item[0]])
    }  # fmt: skip


def optimality(distances: dict[str, Tensor]) -> dict[str, float]:
    """Return the optimality of each attack from its distances on the same samples (N, inf for no example)."""
    best = torch.stack(list(distances.values())).amin(0)
    known = best[best.isfinite()]
    if len(known) == 0:
        return dict.fromkeys(distances, math.nan)
    farthest = known.amax()
    areas = {name: size.clamp_max(farthest).mean() for name, size in distances.items()}
    least = best.clamp_max(farthest).mean()
    return {name: (1 - (area - least) / (farthest - least)).item() for name, area in areas.items()}


def attacks(norm: str, passes: int) -> Iterator[tuple[str, Attack]]:
    """Yield the attacks of robustcls, adv-lib and foolbox in this norm, with the steps that fit the given passes."""
    specs = {
        "linf": [
            f"min_apgd(radii={passes // 20})",
            f"fmn(steps={passes})",
            f"fab_t(steps={passes // 9}, early_stop=False)",
        ],
        "l0": [f"sigma_zero(steps={passes})"],
    }
    specs["l1"] = specs["linf"]
    specs["l2"] = [*specs["linf"], f"ddn(steps={passes})"]
    for spec in specs[norm]:
        yield f"robustcls {spec}", _ours(spec, norm)
    lib = importlib.import_module("adv_lib.attacks")
    order, run = ORDERS[norm], importlib.import_module("adv_lib.attacks.auto_pgd").minimal_apgd
    yield "adv-lib fmn", lambda model, x, y: lib.fmn(model, x, y, norm=order, steps=passes)
    if norm != "l2":
        yield "adv-lib pdpgd", lambda model, x, y: lib.pdpgd(model, x, y, norm=order, num_steps=passes)
    if norm == "l2":
        yield "adv-lib ddn", lambda model, x, y: lib.ddn(model, x, y, steps=passes)
        yield "adv-lib pdgd", lambda model, x, y: lib.pdgd(model, x, y, num_steps=passes)
    if norm == "l0":
        zero = importlib.import_module("adv_lib.attacks.sigma_zero").sigma_zero
        yield "adv-lib sigma_zero", lambda model, x, y: zero(model, x, y, num_steps=passes)
    else:
        steps = passes // RUNS
        for kind in (False, True):
            few = max(passes // RUNS // 9, 1) if kind else steps
            yield f"adv-lib minimal_apgd{'_targeted' if kind else ''}", _bisection(run, order, few, kind)
    foolbox = importlib.import_module("foolbox")
    yield "foolbox fmn", _foolbox(foolbox, getattr(foolbox.attacks, FOOLBOX[norm])(steps=passes))
    if norm == "l2":
        yield "foolbox ddn", _foolbox(foolbox, foolbox.attacks.DDNAttack(steps=passes))
    if norm == "l1":
        ead = foolbox.attacks.EADAttack(binary_search_steps=9, steps=passes // 9, abort_early=False, decision_rule="L1")
        yield "foolbox ead", _foolbox(foolbox, ead)


def _ours(spec: str, norm: str) -> Attack:
    return lambda model, x, y: robustcls.attack(model, x, y, ThreatModel(norm, 1), spec, batch_size=len(x))


def _bisection(run: Callable, order: float, steps: int, targeted: bool) -> Attack:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        whole = {math.inf: 1.0, 2: x[0].numel() ** 0.5, 1: float(x[0].numel())}[order]
        return run(
            model, x, y, order, whole / 2, n_iter=steps, binary_search_steps=RUNS, targeted_version=targeted,
            **({"num_targets": 9} if targeted else {}),
        )  # fmt: skip

    return attack


def _foolbox(foolbox: Any, attack: Any) -> Attack:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        peer = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=x.device)
        return attack(peer, x, foolbox.criteria.Misclassification(y), epsilons=None)[0]

    return run


if __name__ == "__main__":
    command()
