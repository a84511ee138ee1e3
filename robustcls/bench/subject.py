"""The model that is attacked and explained: the given model, or one trained for a few seconds."""

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
    """Load task["model"], in any form that `robustcls attack --model` accepts, in eval mode. Raises InputError."""
    torch.manual_seed(task["seed"])  # so that model code with random weights gives the same weights each time
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
            f"{loaded.name} has the classes of the data in another order: give a model with the same order of classes"
        )
    return loaded


def subject_task(config: Any, common: dict[str, Any], folder: Path, say: Callable[[str], None]) -> dict:
    """Return the task for load_subject; train the model first if none is given."""
    spec = config.model or str(quick_model(config, common["arch"], folder, say))
    batch_size = config.batch_size or "auto"
    return common | {"model": spec, "mean": config.mean, "std": config.std, "batch_size": batch_size}


def quick_model(config: Any, arch: str, folder: Path, say: Callable[[str], None]) -> Path:
    """Train a classifier for three epochs with FGSM, enough for comparable accuracies, and return its checkpoint."""
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
    path = folder / "bench" / "quick.pt"  # the model is named after folder and file
    save_checkpoint(path, run.state.eval_model, meta(run))
    return path
