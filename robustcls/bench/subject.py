"""The model that is attacked and explained: the one that was named, or one trained for a few seconds."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from robustcls.core.errors import InputError
from robustcls.core.options import parse_numbers
from robustcls.data import recipe
from robustcls.data.images import Images
from robustcls.data.splits import load_training_data
from robustcls.models.checkpoint import save_checkpoint
from robustcls.models.loading import LoadedModel, build_model, fit_to_data, read_model
from robustcls.runtime.predict import LOOKED_AT
from robustcls.training.checkpoint import meta
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.run import Run

TRAINING_IMAGES = 4096


def load_subject(task: Mapping[str, Any], images: Images) -> LoadedModel:
    """The model of task["model"], as `robustcls attack --model` takes it, in eval mode. Raises InputError."""
    torch.manual_seed(task["seed"])  # code that draws its weights draws the same each time
    loaded = build_model(
        read_model(task["model"]),
        arch=task["arch"],
        classes=images.classes,
        input_size=tuple(images.pixels.shape[1:]),
        mean=parse_numbers(task["mean"], "mean"),
        std=parse_numbers(task["std"], "std"),
    )
    loaded.model.to(task["device"]).eval()
    found, _ = fit_to_data(loaded, images.batch(slice(LOOKED_AT))[0], images.classes)
    if found.moves_labels:
        raise InputError(
            f"{loaded.name} has the classes of the data in another order: bench takes one that has them in it"
        )
    return loaded


def subject_task(config: Any, common: dict[str, Any], folder: Path, say: Callable[[str], None]) -> dict:
    """What load_subject needs; trains the model first where none was named."""
    spec = config.model or str(quick_model(config, common["arch"], folder, say))
    batch_size = config.batch_size or "auto"
    return common | {"model": spec, "mean": config.mean, "std": config.std, "batch_size": batch_size}


def quick_model(config: Any, arch: str, folder: Path, say: Callable[[str], None]) -> Path:
    """The checkpoint of a classifier trained for three epochs with FGSM: enough for accuracies that can be compared."""
    say("  training a model to attack: 3 epochs with FGSM")
    options = {key: value for key, value in recipe(config.data).items() if key in ("augment", "lr", "batch_size")}
    made = TrainConfig(
        data=config.data, arch=arch, adv="fgsm(random_start=True)", norm=config.norm, eps=config.eps,
        epochs=3, limit_train=None if config.suite == "cuda" else TRAINING_IMAGES, val_n=64, device=config.device,
        seed=config.seed, **options,
    )  # fmt: skip
    images = load_training_data(config.data, data_dir=config.data_dir, seed=config.seed, limit_train=made.limit_train)
    run = Run(made, folder / "run", *images)
    fit(run)
    path = folder / "bench" / "quick.pt"  # its folder and file are its name
    save_checkpoint(path, run.state.eval_model, meta(run))
    return path
