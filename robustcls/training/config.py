"""The options of training."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import DataOptions, RuntimeOptions, ThreatOptions, parse_batch_size


@dataclass(kw_only=True)
class TrainConfig(DataOptions, ThreatOptions, RuntimeOptions):
    arch: str = option("vgg16", "Architecture, such as vgg16(width=0.25).", metavar="SPEC")
    adv: str | None = option(
        None, "Inner attack: none, fgsm, pgd(steps=3) ...  [default: the data set's recipe]", metavar="SPEC"
    )
    objective: str | None = option(
        None, "What is minimised.  [default: standard with --adv none, else adversarial]", metavar="SPEC"
    )
    step: str = option("once", "Who owns the update.", metavar="SPEC")
    epochs: int = option(30, "Passes over the training images.")
    lr: float = option(0.1, "Peak learning rate.")
    momentum: float = option(0.9, "Nesterov momentum of SGD.")
    weight_decay: float = option(5e-4, "Weight decay, not applied to BatchNorm and biases.")
    schedule: str = option("one_cycle", "Learning rate over the run: one_cycle, cosine, constant.", metavar="SPEC")
    augment: str = option("crop_flip", "Augmentation: none, crop_flip, affine.", metavar="SPEC")
    ema: float = option(0.0, "Decay of an average of the weights, which is then judged and saved; 0 for none.")
    limit_train: int | None = option(None, "Train on so many images, the same share of each class.", metavar="N")
    val_n: int = option(500, "Validation images, held out of the training set.")
    val_attack: str = option("pgd(steps=10)", "Attack that measures robust validation accuracy.", metavar="SPEC")
    track: tuple[str, ...] = option((), "Also log to this tracker (repeatable).", metavar="NAME")
    out: str | None = option(None, "Run folder.  [default: runs/<data>-<arch>-<adv>-<time>]", metavar="DIR")

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("val_n", 1), ("limit_train", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value} is too small: give {least} or more")
        for name in ("lr", "momentum", "weight_decay", "ema"):
            value = getattr(self, name)
            if not (0 <= value < (1 if name in ("momentum", "ema") else float("inf"))):
                raise InputError(f"--{name.replace('_', '-')} {value} is out of range")
        parse_batch_size(self.batch_size)
        self.data = self.data or "digits"
        self.norm = self.norm or "linf"
        if self.eps is None and self.norm != "linf":
            raise InputError(f"norm {self.norm} has no usual radius: give --eps, such as --eps 0.5")
        self.eps = "8/255" if self.eps is None else self.eps
        self.adv = self.adv or "pgd"
        self.objective = self.objective or ("standard" if self.adv == "none" else "adversarial")
