"""Chooses among six architectures in 12 minutes, then trains the last two in full and attacks both on test images.

python -m experiments.choose.run --data folder:cifar          # 12 minutes, two full runs, two evaluations under `fast`
python -m experiments.choose.run --tiny --work runs/tiny --out runs/tiny/reports      # seconds, on the digits
python -m experiments.choose.table                             # prints the table

The candidates are full.toml with other architectures and --limit-train images. choose.json and full.json, the results of the
two full runs, are written to --out. Finished parts are not repeated.
"""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

import robustcls
from experiments.common import REPORTS, attack, bits, command, history, outcome, write
from robustcls import Evaluation
from robustcls.choosing.record import Choice, Trial
from robustcls.results.comparison import held

HERE = Path(__file__).resolve().parent
RESULTS = REPORTS / "choose"
ARCHS = (
    "vgg16(width=0.0625)", "vgg16(width=0.125)", "vgg16(width=0.25)", "vgg11(width=0.25)", "resnet18(width=0.125)",
    "resnet18(width=0.25)",
)  # fmt: skip
TINY_ARCHS = ("vgg16(width=0.05)", "vgg16(width=0.1)", "resnet18(width=0.125)")
TINY = [
    "--data", "digits(size=8)", "--eps", "0.1", "--batch-size", "32", "--val-n", "40", "--augment", "none",
    "--limit-train", "200",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose among architectures, and check the choice with full runs.")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--limit-train", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=Path("runs/choose"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    choice = chosen(given)
    without_places(choice).save(given.out / "choose.json")
    found = {trial.name: full_run(trial, given) for trial in choice.rungs[-1].trials}
    write(found, given.out / "full.json")


def chosen(given: argparse.Namespace) -> Choice:
    options = {"data": given.data, "limit_train": given.limit_train, "minutes": given.minutes, "learning_curve": True}
    text = (HERE / "full.toml").read_text(encoding="utf-8")
    if given.tiny:
        options |= {"data": "digits(size=8)", "eps": 0.1, "val_n": 40, "batch_size": 32, "limit_train": 200}
        text += 'augment = "none"\n'
    recipes = given.work / "recipes"
    recipes.mkdir(parents=True, exist_ok=True)
    files = [recipes / f"{arch}.toml" for arch in (TINY_ARCHS if given.tiny else ARCHS)]
    for file in files:
        file.write_text(text.replace('arch = "vgg16(width=0.25)"', f'arch = "{file.stem}"'), encoding="utf-8")
    return robustcls.choose(config=files, out=given.work / "choice", progress=True, **options)


def without_places(choice: Choice) -> Choice:
    """Return the record without the paths of this machine."""
    copied = copy.deepcopy(choice)
    copied.data, copied.provenance.command = "cifar10", ""
    for config in [copied.provenance.config, *(one.config for one in copied.candidates)]:
        for name in ("data", "data_dir", "out", "config"):
            config.pop(name, None)
    return copied


def full_run(trial: Trial, given: argparse.Namespace) -> dict[str, Any]:
    """Train a candidate of the last rung on all images and attack it on test images. Returns the results."""
    run = given.work / f"full{trial.folder.rpartition('/')[2].partition('-')[0]}"
    flags = [*TINY, "--epochs", "3"] if given.tiny else ["--data", given.data]
    if not (run / "done").exists():
        shutil.rmtree(run, ignore_errors=True)
        command("train", "--config", HERE / "full.toml", "--arch", trial.name, *flags, "--out", run)
        (run / "done").touch()
    limit = ["--n", "40", "--attack", "fgsm"] if given.tiny else ["--n", "all", "--suite", "fast"]
    found = attack(run / "ckpt.pt", *flags[:2], *limit)
    return {"epochs": len(history(run))} | results(found)


def results(found: Evaluation) -> dict[str, Any]:
    """Return the results of an evaluation, with one digit per sample: 1 is robust."""
    return outcome(found) | {  # counts are pairs, as in the published full.json
        "clean": [found.clean.correct, found.clean.total],
        "robust": [found.robust.correct, found.robust.total],
        "kind": found.robust.kind,
        "samples_robust": bits(held(sample) for sample in found.samples),
    }


if __name__ == "__main__":
    main()
