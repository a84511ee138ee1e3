"""Prints the lower and upper bounds of robust accuracy after certified training, from reports/certified/ibp/results.json.

python -m experiments.certified.ibp.table [results.json]
"""

import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, read
from robustcls.cli.console import markdown, with_interval
from robustcls.results.accuracy import Accuracy

RESULTS = REPORTS / "certified" / "ibp" / "results.json"
WORDS = {"ibp": "MTL-IBP", "pgd": "PGD-3"}
COLUMNS = {
    "clean": "Clean",
    "robust": "Upper bound: `fast`",
    "crown": "Lower bound: CROWN",
    "crown_ibp": "CROWN-IBP",
    "ibp": "Intervals",
}


def table(rows: list[dict[str, Any]]) -> str:
    cells = [[WORDS[row["row"]], *(share(row[name]) for name in COLUMNS)] for row in rows]
    return markdown(["Trained with", *COLUMNS.values()], cells)


def share(counts: dict[str, Any]) -> str:
    return with_interval(Accuracy.of(counts["correct"], counts["total"]))


if __name__ == "__main__":
    found = read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)["rows"]
    if not found:
        print("Not measured yet.")
    else:
        n, threat, device = found[0]["clean"]["total"], found[0]["threat"], found[0]["device"].split(",")[0]
        print(f"{table(found)}\n\n{n:,} test images at {threat}; {device}.")
