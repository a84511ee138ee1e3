"""The options of the benchmark."""

from dataclasses import dataclass
from typing import Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import RuntimeOptions


@dataclass(kw_only=True)
class BenchConfig(RuntimeOptions):
    suite: Literal["train", "attack", "all"] = option("all", "What is measured.")
    data: str = option("digits", "Data set.", metavar="SPEC")
    data_dir: str | None = option(None, "Where downloaded data sets lie.", metavar="DIR")
    arch: str = option("vgg16(width=0.25)", "Architecture.", metavar="SPEC")
    model: str | None = option(None, "Checkpoint to attack.  [default: one trained for a few seconds]", metavar="M")
    norm: Literal["linf", "l2"] = option("linf", "Norm of the perturbation.")
    eps: str = option("8/255", "Its radius.", metavar="EPS")
    train_steps: int = option(3, "PGD steps in training.")
    attack_steps: int = option(20, "PGD steps in the attack.")
    updates: int = option(20, "Updates that each training contestant makes in a round.")
    n: int = option(256, "Images that each attack contestant attacks in a round.")
    rounds: int = option(3, "Rounds; in each, every contestant has its turn.")
    out: str | None = option(None, "Also write the measurements as JSON.", metavar="FILE.json")

    def __post_init__(self) -> None:
        for name in ("train_steps", "attack_steps", "n", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)} is too small: give 1 or more")
        if self.updates < 4:
            raise InputError(f"--updates {self.updates} is too small: give 4 or more, as the first two only warm up")
