"""Trains ibp.toml and pgd.toml, attacks both with `fast` and certifies them with bounds, on the same 1,000 test images.

python -m experiments.certified.ibp.run --data folder:cifar
python -m experiments.certified.ibp.run --tiny --out tiny.json          # a minute, on the digits

Runs are kept in --work; an interrupted run is resumed, and a row that is already in --out is not repeated. A sample that is
certified and misclassified under attack stops the script.
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

import robustcls
from experiments.common import REPORTS, bits, epochs, history, outcome, read, train, write
from robustcls.certification.bounds import METHODS, certify_bounds
from robustcls.core.threat import ThreatModel
from robustcls.results.comparison import held

HERE = Path(__file__).resolve().parent
RESULTS = REPORTS / "certified" / "ibp" / "results.json"
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
    for name in ROWS:
        found = read(given.out)
        if any(row["row"] == name for row in found["rows"]):
            continue
        run = given.work / name
        train(run, "--config", HERE / f"{name}.toml", *(TINY if given.tiny else ["--data", given.data]))
        found["rows"].append(row_of(name, run, 50 if given.tiny else given.n))
        write(found, given.out)


def row_of(name: str, run: Path, n: int) -> dict[str, Any]:
    """Attack and certify the model of a run."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    threat = ThreatModel.chosen(config["norm"], config["eps"], {"norm": "linf"})
    # The best epoch under attack may be an early one, whose bounds were trained at a small radius.
    model = robustcls.load(run / "last.pt")
    images, labels = robustcls.load_data(config["data"], split="test", n=n, data_dir=config.get("data_dir"))
    result = robustcls.evaluate(model, images, labels, threat, suite="fast")
    robust = [held(one) for one in result.samples]
    kept = {key: value for key, value in config.items() if key not in PLACES}
    row: dict[str, Any] = {"row": name, "config": kept, "epochs": epochs(history(run))} | outcome(result)
    row["samples"] = {"robust": bits(robust)}
    for method in METHODS:
        certified = certify_bounds(model, images, labels, threat, method=method, progress=True).certified.tolist()
        broken = [k for k, (one, other) in enumerate(zip(certified, robust, strict=True)) if one and not other]
        assert not broken, f"{name}: certified by {method} and misclassified: samples {broken}"
        row[method] = {"correct": sum(certified), "total": len(certified)}
        row["samples"][method] = bits(certified)
    print({key: row[key] for key in ("row", "clean", "robust", *METHODS)}, flush=True)
    return row


if __name__ == "__main__":
    main()
