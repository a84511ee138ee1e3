"""Prints the table at the top of README.md from the committed contests.

python experiments/headline.py
"""

import json
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "reports" / "bench"
MODELS = [("standard training", "standard"), ("adversarial training, PGD-3", "pgd")]
COLUMNS = ["robustcls fast", "robustcls standard", "pyautoattack standard"]


def table() -> str:
    heads = ["VGG16 (a quarter of the width) on CIFAR-10", "clean", "`fast`", "`standard`", "AutoAttack's own code"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for title, name in MODELS:
        rows = json.loads((BENCH / f"autoattack_vgg16_quarter_{name}.json").read_text())["suites"]["autoattack"]["rows"]
        clean = rows[COLUMNS[0]]["clean_accuracy"]
        cells = [f"{rows[one]['robust_accuracy']:.1%} in {rows[one]['seconds']:.0f} s" for one in COLUMNS]
        lines.append(f"| {title} | {clean:.1%} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
