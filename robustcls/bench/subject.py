"""The model that contestants attack: built in each process by the same rule, so that all have the same weights."""

from collections.abc import Mapping
from typing import Any

import torch

from robustcls.core.errors import InputError
from robustcls.core.options import parse_numbers
from robustcls.data.images import Images
from robustcls.models.loading import LoadedModel, build_model, fit_to_data, read_model
from robustcls.runtime.predict import LOOKED_AT


def load_subject(task: Mapping[str, Any], images: Images) -> LoadedModel:
    """The model of task["model"], as `robustcls attack --model` takes it, in eval mode. Raises InputError."""
    torch.manual_seed(task["seed"])  # code that draws its weights draws the same in every process
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
