"""Compares FAB linearised before its backward step, as in `fab_t`, and after it, as in AutoAttack's code.

    PYTHONPATH=.:../shared/models python -m experiments.contests.fab_linearised reports/contests/fab_linearised.json -n 200 \
        mix=third_party:cnn_a_mix@folder:cifar@2/255 fashion=third_party:fashion@fashion_mnist@0.1
    python -m experiments.contests.fab_linearised reports/contests/fab_linearised.json    # the table of existing results

Besides the given models it uses a SiLU and a k-winners-take-all network (Xiao et al. 2019, arXiv:1905.10510), which it trains
on the digits. Each model is attacked in linf, l2 and l1, from three random starts. A row holds the distances of each sample for
both variants: 0 for a sample that is misclassified already, null for a sample without an example.
"""

import argparse
import json
import math
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import robustcls
from robustcls.attacks import fab_t as fab
from robustcls.attacks._active import per_sample
from robustcls.cli.console import markdown
from robustcls.core.gradients import frozen, logits_and_gradient
from robustcls.core.losses import misclassified
from robustcls.core.threat import ThreatModel
from robustcls.data.splits import choose, load_split

WIDER = {"linf": 1.0, "l2": 16.0, "l1": 380.0}  # factor from eps in linf to a comparable radius
SEEDS = (0, 1, 2)


class Winners(nn.Module):
    """k-winners-take-all: keep the largest fifth of the outputs of a layer, set the others to 0."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(flat.shape[1] // 5, dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0).view_as(x)


def trained(activation: type[nn.Module], x: Tensor, y: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], 32, 3, padding=1), activation(), nn.Conv2d(32, 32, 3, 2, 1), activation(),
        nn.Flatten(), nn.LazyLinear(100), activation(), nn.Linear(100, 10),
    )  # fmt: skip
    net(x[:1])
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(64):
            loss = cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def approach_after(model, a, threat: ThreatModel, steps: int, enough: float) -> tuple[Tensor, Tensor]:
    """As `fab_t._approach`, but linearise the model at the point to which an example has stepped back."""
    nearest, distance = a.x.clone(), a.x.new_full((len(a),), torch.inf)
    for _ in range(steps + 1):
        logits, lead, w = logits_and_gradient(model, a.x_adv, fab._lead, a.y, a.target)
        adversarial = misclassified(logits, a.y)
        if adversarial.any():
            size = threat.distance(a.x_adv, a.x).where(adversarial, torch.inf)
            nearer = size < distance[a.index]
            nearest[a.index[nearer]], distance[a.index[nearer]] = a.x_adv[nearer], size[nearer]
            a.x_adv = torch.where(per_sample(adversarial), a.x.lerp(a.x_adv, fab.BETA), a.x_adv)
            a.keep(size > enough)
            if len(a) == 0:
                break
            _, lead, w = logits_and_gradient(model, a.x_adv, fab._lead, a.y, a.target)
        lead = lead.where(lead.isfinite(), 0)
        b = torch.linalg.vecdot(w.flatten(1), a.x_adv.flatten(1)) - lead
        a.x_adv = fab._step(threat, a.x_adv, a.x, w, b)
    return nearest, distance


def distances(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, seed: int, given: dict
) -> list[float | None]:
    found = []
    for rows in torch.arange(len(x)).split(100):
        x_adv = fab.fab_t(
            model, x[rows], y[rows], threat, random_start=True, early_stop=False,
            generator=torch.Generator().manual_seed(seed), **given,
        )  # fmt: skip
        with torch.no_grad():
            adversarial = misclassified(model(x_adv), y[rows])
        size = threat.distance(x_adv, x[rows])
        found += [
            round(each, 6) if hit else None for each, hit in zip(size.tolist(), adversarial.tolist(), strict=True)
        ]
    return found


def mcnemar(one: int, other: int) -> float:
    """Return the exact two-sided p-value, from the numbers of samples that only one of the two breaks."""
    n, least = one + other, min(one, other)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n) if n else 1.0


def table(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        before, after = (torch.tensor([1e9 if one is None else one for one in row[way]]) for way in ("before", "after"))
        both = (before < 1e9) & (after < 1e9) & (after > 0)
        ratio = (before[both] / after[both]).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
        inside = before <= row["eps"], after <= row["eps"]
        only = int((inside[0] & ~inside[1]).sum()), int((inside[1] & ~inside[0]).sum())
        lines.append((
            row["model"], f"{row['norm']}:{row['eps']:.3g}", str(row["seed"]), str(len(before)), str(int(inside[0].sum())),
            str(int(inside[1].sum())), f"{only[0]}/{only[1]}", f"{mcnemar(*only):.2f}", *(f"{one:.4f}" for one in ratio),
        ))  # fmt: skip
    return markdown(
        ("model", "threat", "seed", "n", "before", "after", "only one", "p", "ratio, 5%", "median", "95%"), lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL@DATA@EPS")
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--targets", type=int, default=3)
    asked = parser.parse_intermixed_args()
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    torch.set_num_threads(1)
    subjects = {}
    for given in asked.models:
        name, _, spec = given.partition("=")
        source, data, eps = spec.rsplit("@", 2)
        images = choose(load_split(data, "test"), asked.n).batch()
        subjects[name] = (robustcls.load(source).eval(), *images, ThreatModel.parse(f"linf:{eps}").eps)
    if subjects:
        train, test = (load_split("digits", split) for split in ("train", "test"))
        for name, kind in (("silu", nn.SiLU), ("k-wta", Winners)):
            net = trained(kind, *choose(train, len(train)).batch())
            subjects[name] = (net, *choose(test, asked.n).batch(), 0.1)
    for name, (model, x, y, eps) in subjects.items():
        for norm, wider in WIDER.items():
            threat = ThreatModel(norm, eps * wider)
            for seed in SEEDS:
                key = {"model": name, "norm": norm, "eps": threat.eps, "seed": seed}
                if any(row.items() >= key.items() for row in rows):
                    continue
                given = {"steps": asked.steps, "targets": asked.targets}
                with frozen(model):
                    before = distances(model, x, y, threat, seed, given)
                    with patch.object(fab, "_approach", approach_after):
                        after = distances(model, x, y, threat, seed, given)
                rows.append(key | given | {"before": before, "after": after})
                asked.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
