"""The options of an audit."""

from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import RuntimeOptions, TrainingDataOptions, TrainingThreatOptions

FOLDS = (2, 4)  # fewest and most


@dataclass(kw_only=True)
class AuditConfig(TrainingDataOptions, TrainingThreatOptions, RuntimeOptions):
    GROUP: ClassVar[str] = "Optimisation"

    limit_train: int | None = option(
        None, "Audit so many training images, the same share of each class.", metavar="N", group="Data"
    )
    arch: str = option("vgg16(width=0.25)", "Architecture of the models, one a fold.", metavar="SPEC", group="Model")
    folds: int = option(4, "Parts of the training images; each is predicted by a model trained on the others: 2 to 4.")
    minutes: float = option(10.0, "Time for everything together.")
    epochs: int | None = option(None, "Instead of --minutes: passes of each model over its images.")
    recipe: str | None = option(
        None, "Other options of robustcls train for the models, such as lr or augment.", metavar="FILE.toml"
    )
    attack: str = option(
        "pgd(steps=10)", "Attack under which confused classes are counted, or none.", metavar="SPEC", group="Attack"
    )
    attack_n: int = option(500, "Images that it attacks, of each class its share.", group="Attack")
    minimum: str = option(
        "fmn(steps=50)", "Attack that measures distances to the boundary, or none.", metavar="SPEC", group="Attack"
    )
    minimum_n: int = option(200, "Images for it: correctly classified ones with the smallest margins.", group="Attack")
    suggest: int = option(200, "Images that a person is to look at, at most.", group="Output")
    out: str | None = option(
        None, "New folder for what is written.  [default: audit; with --apply corrected]", metavar="DIR", group="Output"
    )

    def __post_init__(self) -> None:
        low, high = FOLDS
        if not low <= self.folds <= high:
            raise InputError(f"`folds={self.folds}` is out of range: give {low} to {high}")
        for name in ("limit_train", "epochs", "attack_n", "minimum_n", "suggest"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"`{name}={value}` is too small: give 1 or more")
        if not 0 < self.minutes < float("inf"):
            raise InputError(f"`minutes={self.minutes:g}` is out of range: give the time that an audit may take")
