"""Trains the recipe of base.toml with one change each, and attacks the models; finished rows are not repeated.

python -m experiments.fifteen_minutes.run --data folder:cifar                       # all changes, three seeds
python -m experiments.fifteen_minutes.run --data folder:cifar --rows base lr_0.2 --seeds 0
python -m experiments.fifteen_minutes.run --data folder:cifar --epochs 8 --seeds 0 --out short.json      # shorter, to screen
python -m experiments.fifteen_minutes.run --tiny --rows base silu --seeds 0 --out tiny.json            # seconds, on the digits

The last epoch is evaluated, with `fast` on all test images. --costs measures images per second on an otherwise idle machine
(medians of dry runs, in turns). Changes that alter the cost of an image train for the EPOCHS that take the time of the base
recipe. Runs are kept in --work; an interrupted run is resumed. The results are written to --out, one row per run.
"""

import argparse
import re
import statistics
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, attack, command, epochs, history, outcome, read, train, write
from robustcls.core.config import read_toml

BASE = Path(__file__).resolve().parent / "base.toml"
RESULTS = REPORTS / "fifteen_minutes" / "results.json"
SILU = "vgg16(width=0.25, activation='silu')"
RESNET7 = "resnet7(activation='silu')"
TUNED = {"arch": RESNET7, "optimizer": "muon", "train_eps": "12/255"}
WIDE = TUNED | {"arch": "resnet7(width=1.75, activation='silu')"}
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "no_ramp": {"eps_ramp": None},
    "long_ramp": {"eps_ramp": "0.3-0.6"},
    "silu": {"arch": SILU},
    "muon": {"optimizer": "muon"},
    "muon_silu": {"optimizer": "muon", "arch": SILU},
    "wider": {"arch": "vgg16(width=0.375)"},
    "widest": {"arch": "vgg16(width=0.5)"},
    "resnet7": {"arch": RESNET7},
    "tuned": {"arch": RESNET7, "optimizer": "muon"},
    "tuned_eps_12": TUNED,
    "tuned_eps_15": TUNED | {"train_eps": "15/255"},
    "wide_tuned": WIDE,
    "wide_tuned_crop_1": WIDE | {"augment": "crop_flip(pad=1)"},
    "best": WIDE | {"augment": "crop_flip(pad=1)", "lr": 0.2, "objective": "adversarial(label_smoothing=0.3)"},
    "resnet": {"arch": "preact_resnet18(width=0.25)"},
    "lr_0.2": {"lr": 0.2},
    "lr_0.05": {"lr": 0.05},
    "batch_64": {"batch_size": 64},
    "smoothing_0.1": {"objective": "adversarial(label_smoothing=0.1)"},
    "smoothing_0.3": {"objective": "adversarial(label_smoothing=0.3)"},
    "crop_1": {"augment": "crop_flip(pad=1)"},
    "crop_2": {"augment": "crop_flip(pad=2)"},
    "ema": {"ema": 0.995},
    "alp": {"objective": "alp(weight=10, label_smoothing=0.4)"},
    "eps_9": {"train_eps": "9/255"},
    "pgd_2": {"adv": "pgd(steps=2, step_size=5/255)"},
    "fgsm": {"adv": "fgsm", "on_collapse": "ignore"},
}
# Of changes that alter the cost of an image; not in here yet: wider, widest, resnet, alp, pgd_2.
EPOCHS = {
    "silu": 35, "muon": 36, "muon_silu": 32, "resnet7": 26, "tuned": 23, "tuned_eps_12": 23, "tuned_eps_15": 23,
    "wide_tuned": 8, "wide_tuned_crop_1": 8, "best": 8,
}  # fmt: skip
TINY = {
    "data": "digits(size=8)", "eps": "0.1", "batch_size": 64, "val_n": 40, "augment": "none", "limit_train": 300, "epochs": 4,
}  # fmt: skip
TURNS = 5  # dry runs of a change for --costs


def main() -> None:
    parser = argparse.ArgumentParser(description="Fifteen minutes of two cores: train and attack with one change each.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--work", type=Path, default=Path("runs/fifteen_minutes"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    parser.add_argument("--epochs", type=int, help="epochs of the base recipe, in place of those in base.toml")
    parser.add_argument("--costs", action="store_true", help="only measure images per second")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.costs:
        found = costs(given)
        results = read(given.out)
        results["costs"] = results.get("costs", {}) | found
        write(results, given.out)
        return
    for seed in given.seeds:
        for name in given.rows:
            if any((row["row"], row["seed"]) == (name, seed) for row in read(given.out)["rows"]):
                continue
            print(f"seed {seed}, {name}", flush=True)
            made = row_of(name, seed, given)
            results = read(given.out)  # once more, because another process may have written to it meanwhile
            results["rows"].append(made)
            write(results, given.out)
            print({key: made[key] for key in ("clean", "robust")}, flush=True)


def options(name: str, given: argparse.Namespace) -> list[str]:
    """Return the flags of `train` for the base recipe with one change."""
    base = read_toml(str(BASE), "base")
    whole = EPOCHS.get(name, base["epochs"])
    count = max(1, round(whole * given.epochs / base["epochs"])) if given.epochs else whole
    chosen = base | {"data": given.data, "epochs": count} | (TINY if given.tiny else {}) | CHANGES[name]
    return [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items() if value is not None]


def row_of(name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate the base recipe with one change."""
    run = given.work / f"{name}-{seed}"
    train(run, *options(name, given), "--seed", seed)
    found = attack(run / "last.pt", "--suite", "fast", "--n", "all")
    trained = history(run)
    return {
        "row": name,
        "seed": seed,
        "options": [one for one in options(name, given) if not one.startswith("--data=")],
        "epochs": epochs(trained),
        "events": [epoch["event"] for epoch in trained if epoch.get("event")],
    } | outcome(found)


def costs(given: argparse.Namespace) -> dict[str, float]:
    """Return training images per second with each change: medians over dry runs, with the changes in turns."""
    rates: dict[str, list[float]] = {name: [] for name in given.rows}
    for _ in range(TURNS):
        for name in given.rows:
            output = command("train", *options(name, given), "--out", given.work / "cost", "--dry-run", capture=True)
            rates[name].append(float(re.search(r"^# speed {2,}([\d.,]+)", output, re.MULTILINE)[1].replace(",", "")))
    return {name: statistics.median(found) for name, found in rates.items()}


if __name__ == "__main__":
    main()
