"""Prints the results with few trained parameters, from reports/few_parameters/results.json.

python -m experiments.few_parameters.table [results.json]
"""

import sys
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, percent, read
from robustcls.cli.console import by_seed, difference_by_seed, markdown

RESULTS = REPORTS / "few_parameters" / "results.json"
WORDS = {
    ("source", "head"): "head",
    ("source", "norm_bias"): "norms, biases, head",
    ("source", "lora"): "LoRA of rank 4, head",
    ("source", "all"): "all",
    ("standard", "head"): "head, from a source that is not robust",
}


def table(rows: list[dict[str, Any]], costs: dict[str, dict[str, float]]) -> str:
    """Return one row per number of images and recipe: means over seeds, values of each seed in brackets."""
    lines = []
    for images in sorted({row["images"] for row in rows}):
        whole = {row["seed"]: percent(row["robust"]) for row in rows if is_of(row, images, "source", "all")}
        for (source, tune), words in WORDS.items():
            runs = sorted((row for row in rows if is_of(row, images, source, tune)), key=lambda row: row["seed"])
            if not runs:
                continue
            clean, robust = ([percent(row[what]) for row in runs] for what in ("clean", "robust"))
            more = [
                percent(row["robust"]) - whole[row["seed"]] for row in runs if row["seed"] in whole and tune != "all"
            ]
            cost = costs.get(tune, {})
            whole_model = cost.get("parameters")
            count = runs[0]["trained"] or whole_model
            trained = (
                f"{count:,.0f} ({count / whole_model:.2%})" if whole_model else f"{count:,.0f}" if count else "all"
            )
            speed, memory = (f"{cost[name]:,.0f}" if cost else "-" for name in ("images_per_second", "peak_memory_mb"))
            cells = [by_seed(clean), by_seed(robust), difference_by_seed(more), trained, speed, memory]
            lines.append([f"{images:,}", words, *cells])
    head = [
        "Images",
        "Trained",
        "Clean %",
        "Robust %, `fast`",
        "Difference to all, points",
        "Parameters trained",
        "Images/s",
        "Peak MB",
    ]
    return markdown(head, lines)


def is_of(row: dict[str, Any], images: int, source: str, tune: str) -> bool:
    return (row["images"], row["source"], row["tune"]) == (images, source, tune)


def about(rows: list[dict[str, Any]]) -> str:
    """Return a sentence with what all rows have in common."""
    said = [f"{rows[0]['robust']['total']:,} test images of two classes"]
    said += sorted({row["device"].split(",")[0] for row in rows})
    checks = sorted({f"{row['tune']}: {name}" for row in rows for name in row["checks"]})
    return "; ".join([*said, *([f"self-checks that warn: {', '.join(checks)}"] if checks else [])]) + "."


if __name__ == "__main__":
    found = read(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS)
    rows = found["rows"]
    print(f"{table(rows, found.get('costs', {}))}\n\n{about(rows)}" if rows else "Not measured yet.")
