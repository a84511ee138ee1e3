"""Prints the lower and upper bounds of robust accuracy after certified training, from reports/certified/ibp/results.json.

python experiments/certified/ibp/table.py [results.json]
"""

import json
import sys
from pathlib import Path
from typing import Any

from robustcls.cli.console import markdown
from robustcls.results.statistics import wilson

RESULTS = Path(__file__).resolve().parents[3] / "reports" / "certified" / "ibp" / "results.json"
WORDS = {"ibp": "MTL-IBP", "pgd": "PGD-3"}
COLUMNS = {
    "clean": "Clean",
    "fast": "Upper bound: `fast`",
    "crown": "Lower bound: CROWN",
    "crown_ibp": "CROWN-IBP",
    "ibp": "Intervals",
}


def table(rows: list[dict[str, Any]]) -> str:
    cells = [[WORDS[row["row"]], *(share(row[name], row["n"]) for name in COLUMNS)] for row in rows]
    return markdown(["Trained with", *COLUMNS.values()], cells)


def share(correct: int, total: int) -> str:
    low, high = (100 * end for end in wilson(correct, total))
    return f"{correct / total:.1%} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    if not file.exists():
        print("Not measured yet.")
    else:
        found = json.loads(file.read_text(encoding="utf-8"))["rows"]
        first = found[0]
        print(f"{table(found)}\n\n{first['n']:,} test images at {first['threat']}; {first['device'].split(',')[0]}.")
