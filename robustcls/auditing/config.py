"""The options of an audit."""

from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import RuntimeOptions, TrainingDataOptions, TrainingThreatOptions

FOLDS = (2, 4)  # smallest and largest number


@dataclass(kw_only=True)
class AuditConfig(TrainingDataOptions, TrainingThreatOptions, RuntimeOptions):
    GROUP: ClassVar[str] = "Optimisation"

    limit_train: int | None = option(
        None, "Audit N training images only, with the same class proportions.", metavar="N", group="Data"
    )
    arch: str = option(
        "vgg16(width=0.25)", "Architecture of the models (one model per fold).", metavar="SPEC", group="Model"
    )
    features: str | None = option(
        None,
        "Pretrained network, such as torchvision/resnet18(size=128): fit a linear classifier on its features for each fold, "
        "instead of training --arch. It must not have been trained on the audited labels.",
        metavar="SPEC",
        group="Model",
    )
    folds: int = option(4, "Number of folds, 2 to 4. Each fold is predicted by a model trained on the other folds.")
    minutes: float = option(10.0, "Time for the whole audit, in minutes; with --features it limits the attacks only.")
    epochs: int | None = option(None, "Training epochs of each model, in place of --minutes.")
    recipe: str | None = option(
        None, "File with other options of robustcls train for these models, such as lr or augment.", metavar="FILE.toml"
    )
    attack: str = option(
        "pgd(steps=10)", "Attack under which class confusions are counted, or none.", metavar="SPEC", group="Attack"
    )
    attack_n: int = option(500, "Number of images for --attack, drawn in proportion to the classes.", group="Attack")
    minimum: str = option(
        "fmn(steps=50)",
        "Attack that measures distances to the decision boundary, or none.",
        metavar="SPEC",
        group="Attack",
    )
    minimum_n: int = option(
        200,
        "Number of images for --minimum: the correctly classified images with the smallest margins.",
        group="Attack",
    )
    suggest: int = option(200, "Maximum number of images suggested for checking by a person.", group="Output")
    out: str | None = option(
        None, "New output folder.  [default: audit, or corrected with --apply]", metavar="DIR", group="Output"
    )

    def __post_init__(self) -> None:
        low, high = FOLDS
        if self.features is not None and not self.features.strip():
            raise InputError("`features` is empty: give a pretrained network, or leave it out")
        if self.features and (self.epochs is not None or self.recipe):
            name = "epochs" if self.epochs is not None else "recipe"
            raise InputError(f"`{name}` is for training, and with `features` no network is trained: leave it out")
        if not low <= self.folds <= high:
            raise InputError(f"`folds={self.folds}` is out of range: give {low} to {high}")
        for name in ("limit_train", "epochs", "attack_n", "minimum_n", "suggest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`{name}={value}` is too small: give 1 or more")
        if not 0 < self.minutes < float("inf"):
            raise InputError(f"`minutes={self.minutes:g}` is out of range: give the time that an audit may take")
