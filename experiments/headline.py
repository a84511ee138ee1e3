"""Prints the table at the top of README.md and how it was measured, from the committed results of the contests.

python experiments/headline.py
"""

import json
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1] / "reports" / "bench"
MODELS = [("standard training", "standard"), ("adversarial training, PGD-3", "pgd")]
COLUMNS = ["robustcls fast", "robustcls standard", "pyautoattack standard"]


def table() -> str:
    contests = [
        json.loads((BENCH / f"autoattack_vgg16_quarter_{name}.json").read_text(encoding="utf-8"))["suites"][
            "autoattack"
        ]
        for _, name in MODELS
    ]
    heads = ["VGG16 (a quarter of the width) on CIFAR-10", "clean", "`fast`", "`standard`", "AutoAttack's own code"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (title, _), contest in zip(MODELS, contests, strict=True):
        rows = contest["rows"]
        clean = rows[COLUMNS[0]]["clean_accuracy"]
        cells = [f"{rows[one]['robust_accuracy']:.1%} in {rows[one]['seconds']:.0f} s" for one in COLUMNS]
        lines.append(f"| {title} | {clean:.1%} | {' | '.join(cells)} |")
    how = {conditions(contest) for contest in contests}
    assert len(how) == 1, how
    return "\n".join([*lines, "", *how])


def conditions(contest: dict[str, Any]) -> str:
    """Return a sentence with what all figures of a contest have in common: threat model, samples, device, peer."""
    subject = contest["subject"]
    threat, peer = subject["threat"], f"pyautoattack {subject['versions']['pyautoattack']}"
    return (
        f"Robust accuracy within {threat['norm']} {threat['eps_text']} and the time it took: {contest['n']} test images, "
        f"{subject['device']}, beside {peer}."
    )


if __name__ == "__main__":
    print(table())
