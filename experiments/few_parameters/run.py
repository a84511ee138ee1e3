"""Trains and evaluates the recipes of this folder, row by row; what is done already is not done again.

python experiments/few_parameters/run.py --cifar cifar                # two sources, then four recipes, three seeds
python experiments/few_parameters/run.py --cifar cifar --seeds 0 --images 126 --tunes head lora
python experiments/few_parameters/run.py --cifar cifar --costs        # speed and memory alone, on a machine that rests
python experiments/few_parameters/run.py --tiny --work tiny --out tiny.json     # seconds, on the digits

CIFAR: a folder with train/ and test/, each with a folder of images a class. Eight classes are the source, automobiles and
trucks the target. A seed chooses the target's training and validation images and all else that is random; the sources are
one run each. The head from the source that is not robust is the negative control. Under `fast` all test images of the
target are evaluated. Runs lie below --work; a run that was cut off goes on. The results, one row each, are in --out, and
beside them what an update costs by recipe: medians of five dry runs, by turns.
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
COSTED, TURNS = 1000, 5  # images of the target, and dry runs
COSTS = {"parameters": "parameters", "speed": "images_per_second", "peak memory": "peak_memory_mb"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Few parameters: trains and evaluates.")
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
        parser.error("--cifar names the folder of the images")
    images = [TINY_IMAGES] if given.tiny else given.images
    data = given.work / "data"
    if not data.exists():
        split(given.cifar or digits(given.work / "digits"), data, TINY_TARGET if given.tiny else TARGET)
    for source in SOURCES:
        train(given.work / source, HERE / f"{source}.toml", data / "source", 0, given.tiny)
    if given.costs:
        found = read(given.out)
        found["costs"] = costs(given.work, given.tunes, tiny=given.tiny)
        write(found, given.out)
        return
    tasks = [("source", count, tune, seed) for seed in given.seeds for count in images for tune in given.tunes]
    tasks += [("standard", count, "head", seed) for seed in given.seeds for count in images]
    for task in tasks:
        found = read(given.out)
        if any((row["source"], row["images"], row["tune"], row["seed"]) == task for row in found["rows"]):
            continue
        print(*task, flush=True)
        made = row_of(*task, given.work, tiny=given.tiny)
        found["rows"].append(made)
        write(found, given.out)
        print({key: made[key] for key in ("clean", "robust", "trained")}, flush=True)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}


def write(found: dict[str, Any], file: Path) -> None:
    with atomic_write(file) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def split(cifar: Path, folder: Path, target: tuple[str, str]) -> None:
    """Copies two classes to folder/target, the others to folder/source."""
    part = folder.with_name(f"{folder.name}.part")  # of a copy that was cut off nothing stays
    shutil.rmtree(part, ignore_errors=True)
    for classes in sorted(path for path in cifar.glob("t*/*") if path.is_dir()):
        where = part / ("target" if classes.name in target else "source")
        shutil.copytree(classes, where / classes.parent.name / classes.name)
    part.rename(folder)


def digits(folder: Path) -> Path:
    """The embedded digits as a folder of images."""
    for name in ("train", "test"):
        images = load_split("digits(size=8)", name)
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            place = folder / name / images.classes[label] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[0].numpy()).save(place)
    return folder


def row_of(source: str, images: int, tune: str, seed: int, work: Path, *, tiny: bool) -> dict[str, Any]:
    """Trains and evaluates one recipe from one source on so many images."""
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
    """Goes on with a run that was cut off; one that is finished says so and does nothing."""
    if (run / "last.pt").exists():
        command("train", "--resume", run)
        return
    more = more or (["--epochs", TINY_EPOCHS] if tiny else [])
    command("train", *options(recipe, data, seed, tiny), *more, "--out", run)


def costs(work: Path, tunes: list[str], *, tiny: bool) -> dict[str, dict[str, float]]:
    """What an update costs by recipe."""
    found: dict[str, list[dict[str, float]]] = {tune: [] for tune in tunes}
    for turn in range(TURNS):
        for tune in tunes:
            more = ["--init", work / "source" / "ckpt.pt", "--limit-train", TINY_IMAGES if tiny else COSTED]
            common = options(HERE / f"{tune}.toml", work / "data" / "target", turn, tiny)
            found[tune].append(measured([*common, *more, "--out", work / "cost", "--dry-run"]))
    return {tune: {name: statistics.median(one[name] for one in its) for name in its[0]} for tune, its in found.items()}


def measured(arguments: list[object]) -> dict[str, float]:
    """What a dry run, in a process of its own, says of parameters, images a second and peak memory."""
    said = command("train", *arguments, capture=True)
    found = dict(re.findall(r"^# ([a-z ]+?) {2,}([\d.,e+]+)", said, re.MULTILINE))
    return {name: float(found[words].strip(",").replace(",", "")) for words, name in COSTS.items()}


def command(*words: object, capture: bool = False) -> str:
    """Runs robustcls; ends with it where it fails."""
    arguments = [sys.executable, "-m", "robustcls", *map(str, words)]
    done = subprocess.run(arguments, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    main()
