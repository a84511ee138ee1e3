"""Prints certificates beside attacks, on models trained by others, from reports/certified/bounds.json.

python -m experiments.certified.bounds.table [bounds.json]
"""

import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, read
from robustcls.cli.console import markdown

RESULTS = REPORTS / "certified" / "bounds.json"
COLUMNS = {
    "clean": "Clean",
    "fast": "Upper bound: `fast`",
    "crown": "Lower bound: CROWN",
    "crown_ibp": "CROWN-IBP",
    "ibp": "Intervals",
}


def table(rows: list[dict[str, Any]]) -> str:
    cells = [
        [f"`{row['model']}`", row["threat"], str(row["n"]), *(share(row[name]) for name in COLUMNS)] for row in rows
    ]
    return markdown(["Model", "Threat model", "n", *COLUMNS.values()], cells)


def share(found: dict[str, Any]) -> str:
    low, high = (100 * end for end in found["ci95"])
    return f"{found['correct'] / found['total']:.2%} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    found = read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)["rows"]
    print(table(found) if found else "Not measured yet.")
