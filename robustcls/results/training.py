"""Records of the training of a checkpoint."""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Integer, Number, Share


@dataclass
class Epoch:
    """A line of history.jsonl. Accuracies are shares, None if not measured."""

    epoch: Integer  # counted from 1
    lr: Number
    train_loss: Number
    train_clean: Share | None
    train_robust: Share | None  # of the training batches under the inner attack; with train_eps, under val_attack
    val_clean: Share | None
    val_robust: Share | None
    val_fgsm: Share | None
    seconds: Number
    images_per_second: Number
    val_seconds: Number | None = None
    parts: dict[str, Number] = field(default_factory=dict)  # parts of the objective, averaged over the epoch
    event: str = ""  # intervention after this epoch, such as a stop or a rollback
    below_best: Share | None = None  # best val_robust so far minus val_robust of this epoch
    robust_gap: Number | None = None  # train_robust minus val_robust; the inner attack may be the weaker one
    warning: str = ""  # problem of the training visible in this epoch
    growing: bool = False  # whether it began before the inner attack had its full radius


@dataclass
class Chance:
    """The accuracy of a model that has learned nothing."""

    images: Count  # number of validation images
    majority: Share  # share of the most frequent class among them


@dataclass
class Training:
    """The run that wrote the checkpoint."""

    config: dict[str, Any]
    epochs: list[Epoch]
    chosen_epoch: Integer
    selected_by: str  # e.g. "robust accuracy on the validation split, pgd(steps=10)"
    val_attack: str = ""
    chance: Chance | None = None  # None for runs that did not record it
