"""Prints the results of run.py, from reports/fifteen_minutes/results.json.

python -m experiments.fifteen_minutes.table [results.json]
"""

import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, percent, read
from robustcls.cli.console import by_seed, difference_by_seed, markdown

RESULTS = REPORTS / "fifteen_minutes" / "results.json"
WORDS = {
    "base": "`base.toml`",
    "no_ramp": "full radius from the start",
    "long_ramp": "radius growing over 0.3-0.6 of the run",
    "silu": "SiLU",
    "muon": "Muon",
    "muon_silu": "Muon and SiLU",
    "wider": "width 0.375",
    "widest": "width 0.5",
    "resnet7": "ResNet7 and SiLU",
    "tuned": "ResNet7, SiLU and Muon",
    "tuned_eps_12": "ResNet7, SiLU, Muon, trained at 12/255",
    "tuned_eps_15": "ResNet7, SiLU, Muon, trained at 15/255",
    "wide_tuned": "ResNet7 of width 1.75, SiLU, Muon, trained at 12/255",
    "wide_tuned_crop_1": "the same, with shifts of 1 pixel at most",
    "best": "the same, with label smoothing 0.3 and learning rate 0.2",
    "resnet": "PreAct ResNet-18 of width 0.25",
    "lr_0.2": "learning rate 0.2",
    "lr_0.05": "learning rate 0.05",
    "batch_64": "batches of 64",
    "smoothing_0.1": "label smoothing 0.1",
    "smoothing_0.3": "label smoothing 0.3",
    "crop_1": "shifts of 1 pixel at most",
    "crop_2": "shifts of 2 pixels at most",
    "ema": "average of the weights (EMA 0.995)",
    "alp": "`alp(weight=10, label_smoothing=0.4)`",
    "eps_9": "training radius 9/255",
    "pgd_2": "PGD-2",
    "fgsm": "FGSM without noise",
}


def table(results: dict[str, Any]) -> str:
    """Return one row per change: accuracy on the test images by seed, and the paired difference to the base recipe."""
    rows = {(row["row"], row["seed"]): row for row in results["rows"]}
    rates = results.get("costs", {})
    lines = []
    for name, words in WORDS.items():
        seeds = sorted(seed for one, seed in rows if one == name)
        if not seeds:
            continue
        clean, robust = ([percent(rows[name, seed][what]) for seed in seeds] for what in ("clean", "robust"))
        paired = [seed for seed in seeds if ("base", seed) in rows and name != "base"]
        more = [percent(rows[name, seed]["robust"]) - percent(rows["base", seed]["robust"]) for seed in paired]
        epochs = "/".join(str(count) for count in sorted({rows[name, seed]["epochs"]["run"] for seed in seeds}))
        rate = f"{rates[name] / rates['base']:.2f}" if name in rates and "base" in rates else ""
        lines.append([words, epochs, rate, by_seed(clean), by_seed(robust), difference_by_seed(more)])
    head = ["Change", "Epochs", "Speed", "Clean %", "Robust %, `fast`", "To `base.toml`, points"]
    return markdown(head, lines)


def about(results: dict[str, Any]) -> str:
    """Return a sentence on the images, the threat model and the devices of all rows."""
    rows = results["rows"]
    images, threats, devices = (
        ", ".join(sorted(found))
        for found in (
            {f"{row['robust']['total']:,}" for row in rows},
            {row["threat"] for row in rows},
            {row["device"].split(",")[0] for row in rows},
        )
    )
    return f"{images} test images, {threats}; {devices}."


if __name__ == "__main__":
    found = read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
    print(f"{table(found)}\n\n{about(found)}" if found["rows"] else "Not measured yet.")
