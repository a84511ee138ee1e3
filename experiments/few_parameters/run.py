"""Trains and evaluates the recipes of this folder; finished rows are not repeated.

python experiments/few_parameters/run.py --cifar cifar                # two sources, then four recipes, three seeds
python experiments/few_parameters/run.py --cifar cifar --seeds 0 --images 126 --tunes head lora
python experiments/few_parameters/run.py --cifar cifar --costs        # only speed and memory, on an otherwise idle machine
python experiments/few_parameters/run.py --tiny --work tiny --out tiny.json     # seconds, on the digits

--cifar: a folder with train/ and test/, each with one folder of images per class. Eight classes are the source, automobiles and
trucks the target. The seed determines the training and validation images of the target and everything else that is random; the
sources are one run each. The negative control trains the head on the source model that is not robust. `fast` evaluates all test
images of the target. Runs are kept in --work; an interrupted run is resumed. The results are written to --out, one row per run.
--costs adds the cost of an update by recipe: medians of five dry runs, in turns.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from robustcls import Evaluation
from robustcls.core.files import atomic_write
from robustcls.core.provenance import commit
from robustcls.data.splits import load_split

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "reports" / "few_parameters" / "results.json"
TARGET = ("automobile", "truck")
TUNES = ("head", "norm_bias", "lora", "all")
SOURCES = ("source", "standard")
EPOCHS = {126: 60, 1000: 20}
TINY = ["--arch", "vgg16(width=0.1)", "--eps", "0.05", "--val-n", "20", "--augment", "none", "--batch-size", "16"]
TINY_TARGET, TINY_IMAGES, TINY_EPOCHS = ("8", "9"), 60, 3
COSTED, TURNS = 1000, 5  # target images and dry runs for --costs
COSTS = {"parameters": "parameters", "speed": "images_per_second", "peak memory": "peak_memory_mb"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Few parameters: train and evaluate the recipes.")
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/few_parameters"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--tunes", nargs="+", choices=TUNES, default=list(TUNES))
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.cifar is None and not given.tiny:
        parser.error("give the folder of the images with --cifar")
    images = [TINY_IMAGES] if given.tiny else given.images
    data = given.work / "data"
    if not data.exists():
        split(given.cifar or digits(given.work / "digits"), data, TINY_TARGET if given.tiny else TARGET)
    for source in SOURCES:
        train(given.work / source, HERE / f"{source}.toml", data / "source", 0, given.tiny)
    if given.costs:
        measured = costs(given.work, given.tunes, tiny=given.tiny)
        write(read(given.out) | {"costs": measured}, given.out)
        return
    tasks = [("source", count, tune, seed) for seed in given.seeds for count in images for tune in given.tunes]
    tasks += [("standard", count, "head", seed) for seed in given.seeds for count in images]
    for task in tasks:
        if any((row["source"], row["images"], row["tune"], row["seed"]) == task for row in read(given.out)["rows"]):
            continue
        print(*task, flush=True)
        made = row_of(*task, given.work, tiny=given.tiny)
        found = read(given.out)  # once more, because --costs may have written to it meanwhile
        found["rows"].append(made)
        write(found, given.out)
        print({key: made[key] for key in ("clean", "robust", "trained")}, flush=True)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}


def write(found: dict[str, Any], file: Path) -> None:
    with atomic_write(file) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def split(cifar: Path, folder: Path, target: tuple[str, str]) -> None:
    """Copy two classes to folder/target, the others to folder/source."""
    part = folder.with_name(f"{folder.name}.part")  # removed and copied again after an interruption
    shutil.rmtree(part, ignore_errors=True)
    for classes in sorted(path for path in cifar.glob("t*/*") if path.is_dir()):
        where = part / ("target" if classes.name in target else "source")
        shutil.copytree(classes, where / classes.parent.name / classes.name)
    part.rename(folder)


def digits(folder: Path) -> Path:
    """Write the embedded digits as a folder of images, and return it."""
    for name in ("train", "test"):
        images = load_split("digits(size=8)", name)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            place = folder / name / images.classes[label] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(place)
    return folder


def row_of(source: str, images: int, tune: str, seed: int, work: Path, *, tiny: bool) -> dict[str, Any]:
    """Train one recipe from one source on the given number of images, and evaluate it."""
    run, recipe, data = work / f"{source}-{images}-{tune}-{seed}", HERE / f"{tune}.toml", work / "data" / "target"
    more = ["--init", work / source / "ckpt.pt", "--limit-train", images]
    more += ["--epochs", TINY_EPOCHS if tiny else EPOCHS.get(images, EPOCHS[1000])]
    train(run, recipe, data, seed, tiny, more)
    meta = torch.load(run / "ckpt.pt", weights_only=True)["meta"]
    evaluation = run / "evaluation.json"
    if not evaluation.exists():
        command("attack", "--model", run / "ckpt.pt", "--suite", "fast", "--n", "all", "--resume", "--out", evaluation)
    found = Evaluation.load(evaluation)
    kept = {key: value for key, value in meta["config"].items() if key not in ("data", "data_dir", "init", "out")}
    return {
        "source": source,
        "images": images,
        "tune": tune,
        "seed": seed,
        "config": kept,
        "commit": commit(),
        "epoch": meta["epoch"],
        "clean": {"correct": found.clean.correct, "total": found.clean.total},
        "robust": {"correct": found.robust.correct, "total": found.robust.total, "kind": found.robust.kind},
        "checks": {one.id: one.status for one in found.checks if one.status in ("warn", "fail")},
        "trained": meta.get("tuned", {}).get("trained"),
        "data_sha256": found.data.sha256,
        "versions": found.provenance.versions,
        "device": found.provenance.device,
    }


def options(recipe: Path, data: Path, seed: int, tiny: bool) -> list[object]:
    return ["--config", recipe, "--data", f"folder:{data}", "--seed", seed, *(TINY if tiny else [])]


def train(run: Path, recipe: Path, data: Path, seed: int, tiny: bool, more: list[object] | None = None) -> None:
    """Train, or resume a run that was interrupted; a finished run prints a message and does nothing."""
    if (run / "last.pt").exists():
        command("train", "--resume", run)
        return
    more = more or (["--epochs", TINY_EPOCHS] if tiny else [])
    command("train", *options(recipe, data, seed, tiny), *more, "--out", run)


def costs(work: Path, tunes: list[str], *, tiny: bool) -> dict[str, dict[str, float]]:
    """Return the cost of an update by recipe: medians over dry runs, with the recipes in turns."""
    found: dict[str, list[dict[str, float]]] = {tune: [] for tune in tunes}
    for turn in range(TURNS):
        for tune in tunes:
            more = ["--init", work / "source" / "ckpt.pt", "--limit-train", TINY_IMAGES if tiny else COSTED]
            common = options(HERE / f"{tune}.toml", work / "data" / "target", turn, tiny)
            found[tune].append(measured([*common, *more, "--out", work / "cost", "--dry-run"]))
    medians = {}
    for tune, runs in found.items():
        medians[tune] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return medians


def measured(arguments: list[object]) -> dict[str, float]:
    """Return parameters, images per second and peak memory from the output of a dry run in its own process."""
    output = command("train", *arguments, capture=True)
    found = dict(re.findall(r"^# ([a-z ]+?) {2,}([\d.,e+]+)", output, re.MULTILINE))
    return {name: float(found[words].strip(",").replace(",", "")) for words, name in COSTS.items()}


def command(*words: object, capture: bool = False) -> str:
    """Run robustcls; exit with its status if it fails."""
    arguments = [sys.executable, "-m", "robustcls", *map(str, words)]
    done = subprocess.run(arguments, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    main()
