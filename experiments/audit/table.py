"""Prints the results of the audits, and the accuracy after training on what they corrected.

python -m experiments.audit.table [FOLDER]     # reports/audit/features, or another folder that run.py wrote
"""

import sys
from pathlib import Path
from statistics import mean

from experiments.common import REPORTS, flags, read
from robustcls.cli.console import by_seed, difference_by_seed, markdown
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
    parts += [shown for objective in OBJECTIVES if (shown := arms(out, objective, [one["seed"] for one in audits]))]
    return "\n\n".join(parts)


def arms(out: Path, objective: str, seeds: list[int]) -> str:
    """Return the accuracy of each arm and what it gains on the planted errors, in points; "" if none has run."""
    found = {arm: {seed: right for seed in seeds if (right := read_arm(out, arm, objective, seed))} for arm in ARMS}
    rows = []
    for arm, words in ARMS.items():
        paired = [seed for seed in seeds if seed in found[arm] and seed in found["noisy"]]
        if not paired:
            continue
        gains = [100 * paired_difference(found["noisy"][seed], found[arm][seed])[0] for seed in paired]
        accuracies = [100 * mean(found[arm][seed]) for seed in paired]
        rows.append([words, by_seed(accuracies), "" if arm == "noisy" else difference_by_seed(gains)])
    measure = "Clean" if objective == "standard" else "`fast`"
    head = [f"Trained on ({objective})", f"{measure}, %", "Gain on the planted errors, points, 95% over the seeds"]
    return markdown(head, rows) if rows else ""


def read_arm(out: Path, arm: str, objective: str, seed: int) -> list[bool]:
    """Return which test images are classified correctly; none if the arm has not run."""
    path = out / f"{arm}_{objective}_{seed}.json"
    return flags(read(path)["right"]) if path.exists() else []


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HOME
    print(table(folder) if any(folder.glob("audit_?.json")) else "Not measured yet.")
