"""Trains and evaluates the recipes of this folder; finished rows are not repeated.

python -m experiments.few_parameters.run --cifar cifar                # two sources, then four recipes, three seeds
python -m experiments.few_parameters.run --cifar cifar --seeds 0 --images 126 --tunes head lora
python -m experiments.few_parameters.run --cifar cifar --costs        # only speed and memory, on an otherwise idle machine
python -m experiments.few_parameters.run --tiny --work tiny --out tiny.json     # seconds, on the digits

--cifar: a folder with train/ and test/, each with one folder of images per class. Eight classes are the source, automobiles and
trucks the target. The seed determines the training and validation images of the target and everything else that is random; the
sources are one run each. The negative control trains the head on the source model that is not robust. `fast` evaluates all test
images of the target. Runs are kept in --work; an interrupted run is resumed. The results are written to --out, one row per run.
--costs adds the cost of an update by recipe: medians of five dry runs, in turns.
"""

import argparse
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from experiments.common import REPORTS, attack, command, outcome, read, train, write
from robustcls.data.splits import load_split

HERE = Path(__file__).resolve().parent
RESULTS = REPORTS / "few_parameters" / "results.json"
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
        more = ["--epochs", TINY_EPOCHS] if given.tiny else []
        train(given.work / source, *options(HERE / f"{source}.toml", data / "source", 0, given.tiny), *more)
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
    train(run, *options(recipe, data, seed, tiny), *more)
    found = attack(run / "ckpt.pt", "--suite", "fast", "--n", "all")
    meta = torch.load(run / "ckpt.pt", weights_only=True)["meta"]
    kept = {key: value for key, value in meta["config"].items() if key not in ("data", "data_dir", "init", "out")}
    return {
        "source": source,
        "images": images,
        "tune": tune,
        "seed": seed,
        "config": kept,
        "epoch": meta["epoch"],
        "trained": meta.get("tuned", {}).get("trained"),
    } | outcome(found)


def options(recipe: Path, data: Path, seed: int, tiny: bool) -> list[object]:
    """Return the options of `train` that all recipes have."""
    return ["--config", recipe, "--data", f"folder:{data}", "--seed", seed, *(TINY if tiny else [])]


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


if __name__ == "__main__":
    main()
