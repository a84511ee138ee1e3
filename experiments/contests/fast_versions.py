"""Compares version 2 of the suite `fast` with version 1 and `standard` on the same samples: verdicts and passes.

    PYTHONPATH=.:../shared/models python experiments/contests/fast_versions.py reports/contests/fast.json -n 500 \
        mix=third_party:cnn_a_mix@folder:cifar@2/255 pgd=runs/pgd/ckpt.pt@folder:cifar@8/255
    python experiments/contests/fast_versions.py reports/contests/fast.json    # the table of existing results

A row is one suite on one model with one seed, written when it ends; rows that exist in the file are not repeated. `--time` runs
the rows of `fast` again, in turns, and replaces their CPU seconds (one thread; null if other work was running). `standard` runs
only with the first seed. `--precision bf16` adds rows of `fast` that search in bf16.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import robustcls
from robustcls.cli.console import markdown
from robustcls.data.splits import choose, load_split
from robustcls.evaluation.suites import fast, standard

SUITES = {"fast 1": lambda norm: fast(norm, version=1), "fast 2": fast, "standard": standard}


def run(model, x, y, threat, suite: str, seed: int, precision: str) -> dict[str, Any]:
    began = time.process_time()
    found = robustcls.evaluate(
        model, x, y, threat, attacks=SUITES[suite](threat.norm), seed=seed, precision=precision, batch_size=128
    )
    seconds = time.process_time() - began
    return {
        "clean": found.clean.correct,
        "robust": [one.index for one in found.samples if one.clean == one.label == one.adversarial],
        "passes": sum(attack.forwards + attack.backwards for attack in found.attacks),
        "cpu_seconds": round(seconds, 2),
        "attacks": [
            [attack.name, attack.attacked, attack.broken, attack.forwards, attack.backwards] for attack in found.attacks
        ],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a row per model: means over seeds, and the worst seed's samples above version 1 and points above `standard`."""
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        for precision in dict.fromkeys(row["precision"] for row in mine):
            pairs = [
                (one, two)
                for one in mine
                for two in mine
                if (one["suite"], one["precision"]) == ("fast 1", "fp32")
                and (two["suite"], two["precision"]) == ("fast 2", precision)
                and one["seed"] == two["seed"]
            ]
            if not pairs:
                continue
            whole = [row for row in mine if row["suite"] == "standard"]
            n, least = mine[0]["n"], len(whole[0]["robust"]) if whole else None
            mean = [statistics.mean(len(pair[side]["robust"]) for pair in pairs) for side in (0, 1)]
            over = max(len(two["robust"]) - len(one["robust"]) for one, two in pairs)
            share = [
                f"{sum(two[key] for _, two in pairs) / sum(one[key] for one, _ in pairs):.0%}" if timed else ""
                for key, timed in (("passes", True), ("cpu_seconds", all(two["cpu_seconds"] for _, two in pairs)))
            ]
            above = "" if least is None else f"{100 * (max(len(two['robust']) for _, two in pairs) - least) / n:+.1f}"
            lines.append((
                name, precision, f"{n}", f"{len(pairs)}", f"{mean[0]:.1f}", f"{mean[1]:.1f}", f"{over:+d}",
                "" if least is None else f"{least}", above, *share,
            ))  # fmt: skip
    head = (
        "model",
        "search",
        "n",
        "seeds",
        "fast 1",
        "fast 2",
        "worst seed",
        "standard",
        "points above standard",
        "passes",
        "CPU seconds",
    )
    return markdown(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL@DATA@EPS")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--suites", default="fast 1,fast 2,standard")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--time", action="store_true")
    asked = parser.parse_intermixed_args()
    rows = json.loads(asked.out.read_text()) if asked.out.exists() else []
    torch.set_num_threads(1)
    for given in asked.models:
        name, _, spec = given.partition("=")
        source, data, eps = spec.rsplit("@", 2)
        model, (x, y) = robustcls.load(source).eval(), choose(load_split(data, "test"), asked.n).batch()
        threat = robustcls.ThreatModel.parse(f"linf:{eps}")
        for seed in range(asked.seeds):
            for suite in asked.suites.split(","):
                key = {
                    "model": name,
                    "eps": eps,
                    "n": len(y),
                    "suite": suite,
                    "seed": seed,
                    "precision": asked.precision,
                }
                known = next((row for row in rows if row.items() >= key.items()), None)
                if (suite == "standard" and (seed > 0 or asked.time)) or (known and not asked.time):
                    continue
                found = run(model, x, y, threat, suite, seed, asked.precision)
                if known is None:
                    rows.append(key | found)
                else:
                    known["cpu_seconds"] = found["cpu_seconds"]
                asked.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
                print(name, suite, seed, len(found["robust"]), found["passes"], found["cpu_seconds"], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
