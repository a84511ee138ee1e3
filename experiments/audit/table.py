"""Prints the results of the audits, and the accuracy after training on what they corrected.

python -m experiments.audit.table [FOLDER]     # reports/audit/features, or another folder that run.py wrote
"""

import sys
from pathlib import Path
from statistics import mean

from experiments.common import REPORTS, flags, read
from robustcls.cli.console import markdown
from robustcls.results.statistics import paired_difference

HOME = REPORTS / "audit" / "features"
OBJECTIVES = ("standard", "n_fgsm")
ARMS = {
    "true": "the original labels",
    "noisy": "planted errors",
    "reviewed": "planted errors; the original labels of the most suspicious, as a person would find them",
    "relabelled": "planted errors; the most suspicious labels replaced by the audit's guess",
    "removed": "planted errors; the most suspicious images left out",
    "random": "planted errors; equally many random images left out",
    "true_removed": "no planted errors; the most suspicious images left out",
}


def table(out: Path) -> str:
    """Return the results of the audits and the accuracy of each arm; differences to planted errors are paired by image."""
    audits = [read(path) for path in sorted(out.glob("audit_?.json"))]
    head = [
        "Seed",
        "AP",
        "Precision of issues",
        "Recall",
        "Guess right",
        "Issues without planted errors",
        "Minutes",
        "Duplicates",
    ]
    rows = [
        [str(one["seed"]), f"{one['noisy']['average_precision']:.3f}",
         *(f"{one['noisy'][key]:.1%}" for key in ("precision_of_issues", "recall_of_issues", "guess_right")),
         f"{one['true']['issues'] / one['images']:.1%}", f"{one['noisy']['seconds'] / 60:.1f}",
         f"{one['duplicates']['found']} of {one['duplicates']['planted']}"]
        for one in audits
    ]  # fmt: skip
    parts = [markdown(head, rows)]
    for objective in OBJECTIVES:
        lines = []
        for arm, words in ARMS.items():
            found = {seed: read_arm(out, arm, objective, seed) for seed in (one["seed"] for one in audits)}
            base = {seed: read_arm(out, "noisy", objective, seed) for seed in (one["seed"] for one in audits)}
            seeds = [seed for seed in found if found[seed] and base[seed]]
            if not seeds:
                continue
            cells = [words, ", ".join(f"{found[seed][1]:.1%}" for seed in seeds)]
            differences = [paired_difference(base[seed][0], found[seed][0]) for seed in seeds]
            cells.append(f"{100 * mean(one[0] for one in differences):+.1f}" if arm != "noisy" else "-")
            cells.append("; ".join(f"[{100 * low:+.1f}, {100 * high:+.1f}]" for _, (low, high) in differences))
            lines.append(cells)
        if lines:
            measure = "clean" if objective == "standard" else "`fast`"
            head = [f"Trained on ({objective})", f"{measure}, by seed", "Difference to planted errors", "95%, by seed"]
            parts.append(markdown(head, lines))
    return "\n\n".join(parts)


def read_arm(out: Path, arm: str, objective: str, seed: int) -> tuple[list[bool], float] | None:
    """Return which test images are classified correctly, and their share. None if the arm has not run yet."""
    path = out / f"{arm}_{objective}_{seed}.json"
    if not path.exists():
        return None
    right = flags(read(path)["right"])
    return right, sum(right) / len(right)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME
    print(table(folder) if any(folder.glob("audit_?.json")) else "Not measured yet.")
