"""Trains and evaluates the recipes of this folder; finished rows are not repeated.

python -m experiments.few_labels.run --data folder:cifar                      # six recipes, three seeds
python -m experiments.few_labels.run --data folder:cifar --seeds 0 --rows alone rst
python -m experiments.few_labels.run --tiny --out tiny.json                    # seconds, on the digits

The seed determines the 4,000 labelled images, the validation images and everything else that is random. Runs are kept in
--work; an interrupted run is resumed. `fast` evaluates all test images. The results are written to --out, as JSON with one row
per run.
"""

import argparse
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch

from experiments.common import REPORTS, attack, command, epochs, history, outcome, read, train, write
from robustcls import Evaluation
from robustcls.data.pseudo_labels import PseudoLabels
from robustcls.data.splits import load_left_out
from robustcls.results.comparison import held

HERE = Path(__file__).resolve().parent
RESULTS = REPORTS / "few_labels" / "results.json"
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
            found = read(given.out)
            done = [row for row in found["rows"] if (row["row"], row["seed"]) == (name, seed)]
            labels_are_here = name not in TEACHERS or (given.work / str(seed) / TEACHERS[name]).exists()
            if done and labels_are_here:
                continue
            found["rows"] = [row for row in found["rows"] if row not in done]
            print(f"seed {seed}, {name}", flush=True)
            made = row_of(name, seed, given.work / str(seed), given.data, tiny=given.tiny)
            found["rows"].append(made)
            write(found, given.out)
            print({key: made[key] for key in made.keys() & {"clean", "robust", "pseudo_labels"}}, flush=True)


def row_of(name: str, seed: int, folder: Path, data: str, *, tiny: bool) -> dict[str, Any]:
    """Train and evaluate one recipe."""
    run = folder / name
    labels = folder / READS[name] if name in READS else None
    train(run, *options(name, seed, data, labels, tiny=tiny))
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in PLACES}
    row: dict[str, Any] = {"row": name, "seed": seed, "config": kept, "epochs": epochs(history(run))}
    if name in TEACHERS:
        command("label", "--model", run / "ckpt.pt", "--out", folder / TEACHERS[name])
        row["pseudo_labels"] = judge(folder / TEACHERS[name], config, seed)
    # FGSM is enough for the teachers, which are undefended.
    suite = ["--attack", "fgsm"] if name in TEACHERS else ["--suite", "fast"]
    found = attack(run / "ckpt.pt", *suite, "--n", "all")
    return row | outcome(found) | {"samples_robust": packed(found)}


def options(name: str, seed: int, data: str, labels: Path | None, *, tiny: bool) -> list[object]:
    """Return the options of `train` for one recipe."""
    given = ["--config", HERE / f"{name}.toml", "--data", data, "--seed", seed]
    given += ["--pseudo-labels", labels] if labels else []
    if tiny:
        given += [*TINY, "--epochs", TINY_EPOCHS.get(name, 2)]
        given += [] if name == "all" else ["--limit-train", TINY_LIMIT]
    return given


def judge(labels: Path, config: dict[str, Any], seed: int) -> dict[str, Any]:
    """Count the correct labels of a teacher, for the record only; also write the labels permuted, for the control."""
    made = PseudoLabels.load(labels)
    true = load_left_out(config["data"], seed=seed, limit_train=config["limit_train"]).labels
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(seed))
    permuted = replace(made, labels=made.labels[order], confidence=made.confidence[order])
    permuted.save(labels.with_name("permuted.npz"))
    right = {name: int((each.labels == true).sum()) for name, each in (("right", made), ("permuted_right", permuted))}
    return {"total": len(true), **right, "confidence": round(made.confidence.mean().item(), 4)}


def packed(found: Evaluation) -> str:
    """Return one bit per sample (robust or not), in hex."""
    robust = numpy.array([held(one) for one in found.samples])
    assert int(robust.sum()) == found.robust.correct
    return numpy.packbits(robust).tobytes().hex()


if __name__ == "__main__":
    main()
