"""Writes what the tables need from the evaluations of run.sh into one file.

python -m experiments.decisions.record OUT [results.json]     # by default reports/decisions/results.json

The evaluations of the steps `ensemble` and `coarse` keep their predictions, one digit per image.
"""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.common import REPORTS, bits, outcome, read, write
from robustcls import Evaluation
from robustcls.results.comparison import held

RESULTS = REPORTS / "decisions" / "results.json"
SHORTCUT = re.compile(r"(?P<row>\w+)_(?P<strength>[\d.]+)_(?P<seed>\d+)_(?P<marks>aligned|absent|flipped)")


def results(folder: Path) -> dict[str, Any]:
    """Return the results of all steps that are in the folder; seeds and strengths of a row are strings."""
    rows = []
    for file in sorted(folder.glob("*.json")):
        if file.name != "trees.json":
            found = Evaluation.load(file)
            named = SHORTCUT.fullmatch(file.stem)
            rows.append((named.groupdict() if named else {"row": file.stem} | predictions(found)) | outcome(found))
    trees = folder / "trees.json"
    return {"rows": rows, "trees": read(trees) if trees.exists() else None}


def predictions(found: Evaluation) -> dict[str, Any]:
    """Return labels, clean predictions, predictions under attack (- where not attacked), and which images are robust."""
    digits = {
        name: "".join("-" if (value := getattr(one, name)) is None else str(value) for one in found.samples)
        for name in ("label", "clean", "adversarial")
    }
    assert all(len(text) == len(found.samples) for text in digits.values()), "more than ten classes"
    outputs = found.data.class_map and dict(
        zip(found.data.class_map.classes, found.data.class_map.outputs, strict=True)
    )
    return {
        "classes": list(found.model.classes),
        "outputs": outputs,
        "severity": asdict(found.severity) if found.severity else None,
        "samples": digits | {"robust": bits(held(one) for one in found.samples)},
    }


if __name__ == "__main__":
    write(results(Path(sys.argv[1])), Path(sys.argv[2]) if len(sys.argv) > 2 else RESULTS)
