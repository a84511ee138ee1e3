"""How a checkpoint was trained."""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Integer, Number, Share


@dataclass
class Epoch:
    """A line of history.jsonl. Accuracies are shares; None where not measured."""

    epoch: Integer  # from 1
    lr: Number
    train_loss: Number
    train_clean: Share | None
    train_robust: Share | None  # under the training attack, while training
    val_clean: Share | None
    val_robust: Share | None
    val_fgsm: Share | None
    seconds: Number
    images_per_second: Number
    val_seconds: Number | None = None
    parts: dict[str, Number] = field(default_factory=dict)  # of the objective, mean over the epoch
    event: str = ""  # what the watch over training did after this epoch
    below_best: Share | None = None  # val_robust, of the best epoch so far less this one's
    robust_gap: Number | None = None  # train_robust less val_robust; the attack while training may be a weaker one
    warning: str = ""  # what is wrong with how it learns, as far as this epoch tells


@dataclass
class Chance:
    """What a model reaches that has learned nothing."""

    images: Count  # validation images
    majority: Share  # share of the most frequent class among them


@dataclass
class Training:
    """The run that wrote the checkpoint."""

    config: dict[str, Any]
    epochs: list[Epoch]
    chosen_epoch: Integer
    selected_by: str  # e.g. "robust accuracy on the validation split, pgd(steps=10)"
    val_attack: str = ""
    chance: Chance | None = None  # None of runs that did not record it
