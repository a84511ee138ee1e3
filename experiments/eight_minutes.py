"""Prints the table of the eight-minute recipes from the evaluations that `robustcls attack` wrote.

python experiments/eight_minutes.py
"""

import json
import sys
import tomllib
from pathlib import Path

from robustcls import Evaluation
from robustcls.cli.console import markdown, with_interval

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = {"ema": "average", "raw": "last epoch"}


def table(folder: Path) -> str:
    """Return a Markdown table with one row for each recipe and choice of weights, the best under `fast` first."""
    rows = []
    for recipe in sorted(path for path in folder.iterdir() if path.is_dir()):
        history = [json.loads(line) for line in (recipe / "history.jsonl").read_text().splitlines()]
        minutes = sum(epoch["seconds"] + (epoch.get("val_seconds") or 0) for epoch in history) / 60
        config = tomllib.loads((ROOT / "experiments" / folder.name / f"{recipe.name}.toml").read_text())
        for weights, words in WEIGHTS.items():
            pgd, fast = (Evaluation.load(recipe / f"{weights}_{suite}.json") for suite in ("pgd20", "fast"))
            cells = [f"`{recipe.name}`", words, *map(with_interval, (fast.clean, pgd.robust, fast.robust))]
            cells += [str(config["epochs"]), f"{minutes:.1f}"]
            rows.append((-fast.robust.accuracy, -fast.clean.accuracy, cells))
    head = ["Recipe", "Weights", "Clean", "PGD-20", "`fast`", "Epochs", "Minutes on one core"]
    return markdown(head, [cells for *_, cells in sorted(rows)])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "reports" / "eight_minutes"))
