"""Prints the results with few labels, from reports/few_labels/results.json.

python -m experiments.few_labels.table [results.json]
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, percent, read
from robustcls.cli.console import by_seed, difference_by_seed, markdown

RESULTS = REPORTS / "few_labels" / "results.json"
WORDS = {
    "alone": "4,000 labels alone",
    "permuted": "4,000 labels and permuted pseudo-labels",
    "uat": "4,000 labels and images without labels: UAT",
    "rst": "4,000 labels and pseudo-labels: RST",
    "all": "48,000 labels",
}
TEACHERS = {"teacher": "pseudo-labels", "again": "pseudo-labels of the second round"}


def table(rows: list[dict[str, Any]]) -> str:
    """Return one row per recipe: means over seeds, values of each seed in brackets, paired differences to the labels alone."""
    shares = {(row["row"], row["seed"], what): percent(row[what]) for row in rows for what in ("clean", "robust")}
    lines = []
    for name, words in WORDS.items():
        seeds = sorted(seed for one, seed, what in shares if (one, what) == (name, "robust"))
        if not seeds:
            continue
        clean, robust = ([shares[name, seed, what] for seed in seeds] for what in ("clean", "robust"))
        more, gap = [], []
        for seed in seeds:
            alone, whole = (shares.get((one, seed, "robust")) for one in ("alone", "all"))
            if alone is not None and name != "alone":
                more.append(shares[name, seed, "robust"] - alone)
                if whole is not None and name != "all":
                    gap.append((shares[name, seed, "robust"] - alone) / (whole - alone))
        cells = [
            by_seed(clean),
            by_seed(robust),
            difference_by_seed(more),
            f"{statistics.mean(gap):.2f}" if gap else "",
        ]
        lines.append([words, *cells])
    head = ["Trained on", "Clean %", "Robust %, `fast`", "To 4,000 labels, points", "Share of the gap to 48,000"]
    return markdown(head, lines)


def about(rows: list[dict[str, Any]]) -> str:
    """Return a sentence with what all rows have in common, and the accuracy of the pseudo-labels."""
    students, teachers = ([row for row in rows if (row["row"] in TEACHERS) == side] for side in (False, True))
    said = [f"{row['robust']['total']:,} test images" for row in students[:1]]
    said += sorted({row["device"].split(",")[0] for row in students})
    for name, words in TEACHERS.items():
        right = [
            100 * row["pseudo_labels"]["right"] / row["pseudo_labels"]["total"]
            for row in teachers
            if row["row"] == name
        ]
        said += [f"{words} correct: {by_seed(right)} %"] if right else []
    checks = sorted({f"{row['row']}: {name}" for row in students for name in row["checks"]})
    return "; ".join([*said, *([f"self-checks that warn: {', '.join(checks)}"] if checks else [])]) + "."


if __name__ == "__main__":
    found = read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)["rows"]
    print(f"{table(found)}\n\n{about(found)}" if found else "Not measured yet.")
