"""Trains ibp.toml and pgd.toml, attacks both with `fast` and certifies them with bounds, on the same 1,000 test images.

python experiments/certified/ibp/run.py --data folder:cifar
python experiments/certified/ibp/run.py --tiny --out tiny.json          # a minute, on the digits

Runs are kept in --work; an interrupted run is resumed, and a row that is already in --out is not repeated. A sample that is
certified and misclassified under attack stops the script.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import robustcls
from robustcls.certification.bounds import METHODS, certify_bounds
from robustcls.core.files import atomic_write
from robustcls.core.provenance import commit, versions
from robustcls.core.threat import ThreatModel

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[2] / "reports" / "certified" / "ibp" / "results.json"
ROWS = ("ibp", "pgd")
PLACES = ("data", "data_dir", "out")  # paths on this machine, not part of the recipe
TINY = [
    "--data", "digits(size=8)", "--arch", "cnn4(width=0.5)", "--epochs", "4", "--minutes", "0", "--augment", "none",
    "--eps", "0.02", "--val-n", "40", "--batch-size", "32",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Certified training: trains, attacks and certifies.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--work", type=Path, default=Path("runs/certified"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("-n", type=int, default=1000, help="number of test images")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in ROWS:
        found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"rows": []}
        if any(row["row"] == name for row in found["rows"]):
            continue
        run = given.work / name
        train(name, run, given.data, tiny=given.tiny)
        found["rows"].append(row_of(name, run, 50 if given.tiny else given.n))
        with atomic_write(given.out) as part:
            part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(name: str, run: Path, data: str, *, tiny: bool) -> None:
    options = ["--resume", run] if (run / "last.pt").exists() else ["--config", HERE / f"{name}.toml", "--out", run]
    if options[0] == "--config":
        options += TINY if tiny else ["--data", data]
    status = subprocess.run([sys.executable, "-m", "robustcls", "train", *map(str, options)]).returncode
    if status:
        sys.exit(status)


def row_of(name: str, run: Path, n: int) -> dict[str, Any]:
    """Attack and certify the model of a run."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    threat = ThreatModel.chosen(config["norm"], config["eps"], {"norm": "linf"})
    # The best epoch under attack may be an early one, whose bounds were trained at a small radius.
    model = robustcls.load(run / "last.pt")
    images, labels = robustcls.load_data(config["data"], split="test", n=n, data_dir=config.get("data_dir"))
    result = robustcls.evaluate(model, images, labels, threat, suite="fast")
    robust = [one.clean == one.label and one.broken_by is None for one in result.samples]
    row: dict[str, Any] = {
        "row": name, "threat": str(threat), "n": len(labels),
        "config": {key: value for key, value in config.items() if key not in PLACES},
        "epochs": {"run": len(history), "seconds": round(sum(epoch["seconds"] for epoch in history), 1)},
        "clean": result.clean.correct, "fast": result.robust.correct, "samples": {"fast": bits(robust)},
    }  # fmt: skip
    for method in METHODS:
        certified = certify_bounds(model, images, labels, threat, method=method, progress=True).certified.tolist()
        broken = [k for k, (one, other) in enumerate(zip(certified, robust, strict=True)) if one and not other]
        assert not broken, f"{name}: certified by {method} and misclassified: samples {broken}"
        row[method], row["samples"][method] = sum(certified), bits(certified)
    print({key: row[key] for key in ("row", "n", "clean", "fast", *METHODS)}, flush=True)
    return row | {"checks": {one.id: one.status for one in result.checks if one.status in ("warn", "fail")},
                  "data_sha256": result.data.sha256, "commit": commit(), "versions": versions(),
                  "device": result.provenance.device}  # fmt: skip


def bits(flags: list[bool]) -> str:
    return "".join("1" if one else "0" for one in flags)


if __name__ == "__main__":
    main()
