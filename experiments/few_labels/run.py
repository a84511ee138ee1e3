"""Trains and evaluates the recipes of this folder; finished rows are not repeated.

python experiments/few_labels/run.py --data folder:cifar                      # six recipes, three seeds
python experiments/few_labels/run.py --data folder:cifar --seeds 0 --rows alone rst
python experiments/few_labels/run.py --tiny --out tiny.json                    # seconds, on the digits

The seed determines the 4,000 labelled images, the validation images and everything else that is random. Runs are kept in
--work; an interrupted run is resumed. `fast` evaluates all test images. The results are written to --out, as JSON with one row
per run.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch

from robustcls import Evaluation
from robustcls.core.files import atomic_write
from robustcls.core.provenance import commit
from robustcls.data.pseudo_labels import PseudoLabels
from robustcls.data.splits import load_left_out

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "reports" / "few_labels" / "results.json"
TEACHERS = {"teacher": "first.npz", "again": "labels.npz"}  # and the files of their pseudo-labels
STUDENTS = ("alone", "rst", "permuted", "all", "uat")
READS = {"again": "first.npz", "rst": "labels.npz", "permuted": "permuted.npz"}
PLACES = ("data", "data_dir", "pseudo_labels", "out")  # paths on this machine, not part of the recipe
TINY = [
    "--data", "digits(size=8)", "--arch", "vgg16(width=0.05)", "--eps", "0.1", "--batch-size", "16", "--val-n", "40",
    "--augment", "none",
]  # fmt: skip
TINY_EPOCHS, TINY_LIMIT = {"teacher": 30, "again": 5, "alone": 40}, 60


def main() -> None:
    parser = argparse.ArgumentParser(description="Few labels: train and evaluate the recipes.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--work", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    for seed in given.seeds:
        for name in [*TEACHERS, *given.rows]:
            found = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {"rows": []}
            done = [row for row in found["rows"] if (row["row"], row["seed"]) == (name, seed)]
            labels_are_here = name not in TEACHERS or (given.work / str(seed) / TEACHERS[name]).exists()
            if done and labels_are_here:
                continue
            found["rows"] = [row for row in found["rows"] if row not in done]
            print(f"seed {seed}, {name}", flush=True)
            made = row_of(name, seed, given.work / str(seed), given.data, tiny=given.tiny)
            found["rows"].append(made)
            with atomic_write(given.out) as part:
                part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print({key: made[key] for key in made.keys() & {"clean", "robust", "pseudo_labels"}}, flush=True)


def row_of(name: str, seed: int, folder: Path, data: str, *, tiny: bool) -> dict[str, Any]:
    """Train and evaluate one recipe."""
    run = folder / name
    labels = folder / READS[name] if name in READS else None
    train(name, seed, run, data, labels, tiny=tiny)
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    history = [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = {key: value for key, value in config.items() if key not in PLACES}
    row: dict[str, Any] = {"row": name, "seed": seed, "config": kept, "commit": commit()}
    row["epochs"] = {"run": len(history), "seconds": round(sum(epoch["seconds"] for epoch in history), 1)}
    if name in TEACHERS:
        command("label", "--model", run / "ckpt.pt", "--out", folder / TEACHERS[name])
        row["pseudo_labels"] = judge(folder / TEACHERS[name], config, seed)
    evaluation = run / "evaluation.json"
    if not evaluation.exists():
        # FGSM is enough for the teachers, which are undefended.
        suite = ["--attack", "fgsm"] if name in TEACHERS else ["--suite", "fast"]
        command("attack", "--model", run / "ckpt.pt", *suite, "--n", "all", "--resume", "--out", evaluation)
    return row | summary(Evaluation.load(evaluation))


def train(name: str, seed: int, run: Path, data: str, labels: Path | None, *, tiny: bool) -> None:
    if (run / "last.pt").exists():
        command("train", "--resume", run)
        return
    options = ["--data", data, "--seed", seed, "--out", run, *(["--pseudo-labels", labels] if labels else [])]
    if tiny:
        options += [
            *TINY,
            "--epochs",
            TINY_EPOCHS.get(name, 2),
            *([] if name == "all" else ["--limit-train", TINY_LIMIT]),
        ]
    command("train", "--config", HERE / f"{name}.toml", *options)


def judge(labels: Path, config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Count the correct labels of a teacher, for the record only; also write the labels permuted, for the control."""
    made = PseudoLabels.load(labels)
    true = load_left_out(config["data"], seed=seed, limit_train=config["limit_train"]).labels
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    permuted = replace(made, labels=made.labels[order], confidence=made.confidence[order])
    permuted.save(labels.with_name("permuted.npz"))
    right = {name: int((each.labels == true).sum()) for name, each in (("right", made), ("permuted_right", permuted))}
    return {"total": len(true), **right, "confidence": round(made.confidence.mean().item(), 4)}


def summary(found: Evaluation) -> dict[str, Any]:
    """Return the results of an evaluation, with one bit per sample (robust or not), in hex."""
    robust = numpy.array([one.clean == one.label and one.broken_by is None for one in found.samples])
    assert int(robust.sum()) == found.robust.correct
    return {
        "clean": {"correct": found.clean.correct, "total": found.clean.total},
        "robust": {"correct": found.robust.correct, "total": found.robust.total, "kind": found.robust.kind},
        "checks": {one.id: one.status for one in found.checks if one.status in ("warn", "fail")},
        "samples_robust": numpy.packbits(robust).tobytes().hex(),
        "data_sha256": found.data.sha256,
        "versions": found.provenance.versions,
        "device": found.provenance.device,
    }


def command(*words: object) -> None:
    """Run robustcls; exit with its status if it fails."""
    status = subprocess.run([sys.executable, "-m", "robustcls", *map(str, words)]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
