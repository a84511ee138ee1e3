"""Writes what the tables need from the evaluations of run.sh into one file.

python experiments/decisions/record.py OUT [results.json]     # by default reports/decisions/results.json

The evaluations of the steps `ensemble` and `coarse` keep their predictions, one digit per image.
"""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robustcls import Evaluation
from robustcls.core.files import atomic_write
from robustcls.results.comparison import held

RESULTS = Path(__file__).resolve().parents[2] / "reports" / "decisions" / "results.json"
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
    return {"rows": rows, "trees": json.loads(trees.read_text(encoding="utf-8")) if trees.exists() else None}


def outcome(found: Evaluation) -> dict[str, Any]:
    return {
        "clean": [found.clean.correct, found.clean.total],
        "robust": [found.robust.correct, found.robust.total],
        "kind": found.robust.kind.removeprefix("upper bound: "),
        "threat": f"{found.threat.norm} {found.threat.eps_text}",
        "checks": {one.id: one.status for one in found.checks if one.status in ("warn", "fail")},
        "data_sha256": found.data.sha256,
        "versions": found.provenance.versions,
        "device": found.provenance.device,
        "commit": found.provenance.commit,
    }


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
        "samples": digits | {"robust": "".join("01"[held(one)] for one in found.samples)},
    }


if __name__ == "__main__":
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else RESULTS
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as part:
        part.write_text(json.dumps(results(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
