"""The options of `robustcls choose`."""

from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import SETS, RuntimeOptions, TrainingDataOptions, TrainingThreatOptions


@dataclass(kw_only=True)
class ChooseConfig(TrainingDataOptions, TrainingThreatOptions, RuntimeOptions):
    GROUP: ClassVar[str] = "Optimisation"

    data: str | None = option(None, f"{SETS}  [default: the recipes', or digits]", metavar="SPEC", group="Data")
    arch: tuple[str, ...] = option(
        (), "Candidate: this architecture with the recipe of the data set (repeatable).", metavar="SPEC", group="Model"
    )
    config: tuple[str, ...] = option(
        (),
        "Candidate: a recipe file as for robustcls train --config, named like the file (repeatable).",
        metavar="FILE.toml",
        group="Model",
    )
    minutes: float = option(10.0, "Time of all training runs together, in minutes.")
    seed_noise: int = option(
        2, "Runs of the winner with other seeds, which give the smallest difference that can be claimed.", metavar="N"
    )
    learning_curve: bool = option(
        False, "Also train the winner on 25% and 50% of the images, for the same number of updates."
    )
    adv: str | None = option(
        None, "Inner attack of every candidate.  [default: the recipe's]", metavar="SPEC", group="Attack"
    )
    val_attack: str | None = option(
        None,
        "Attack under which accuracy is compared, or none to compare clean accuracy.  [default: the recipe's, pgd(steps=10)]",
        metavar="SPEC",
        group="Attack",
    )
    limit_train: int | None = option(
        None, "Train on N images only, with the same class proportions.", metavar="N", group="Data"
    )
    val_n: int | None = option(
        None, "Number of validation images, held out of the training set.  [default: the recipe's, 500]", group="Data"
    )
    out: str | None = option(
        None,
        "Output folder. Run the same command again to continue in it, or to share the work with a running one.  "
        "[default: runs/choose-<data>-<time>]",
        metavar="DIR",
        group="Output",
    )

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise InputError(f"`minutes={self.minutes:g}` is no time: give a number above 0, such as `minutes=10`")
        if self.seed_noise < 0:
            raise InputError(f"`seed_noise={self.seed_noise}` is too small: give 0 or more")
