"""The options that commands share. Each is declared here and nowhere else."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError

REST = "rest"  # for images without labels, in place of a data set: the training images that `limit_train` leaves out


# Parts of help that some commands say more of
SETS = "digits, cifar10, cifar100, svhn, fashion_mnist, folder:PATH, module:callable."

MEAN = (
    "Mean to subtract in front of a network that does not do so itself, such as 0.49,0.48,0.45; a module:callable sees [0, 1] "
    "pixels without it."
)


@dataclass(kw_only=True)
class DataOptions:
    GROUP: ClassVar[str] = "Data"

    data: str | None = option(None, f"{SETS}  [default: the checkpoint's, or digits]", metavar="SPEC")
    data_dir: str | None = option(None, "Folder of downloaded data sets.  [default: ~/.cache/robustcls]", metavar="DIR")
    skip_corrupt: bool = option(False, "Skip images of a folder that cannot be read, and name them.")


@dataclass(kw_only=True)
class NormalisationOptions:
    """What is put in front of a network that is not ours. Without it a module of the user's own sees [0, 1] pixels."""

    GROUP: ClassVar[str] = "Model"

    mean: str | None = option(None, MEAN, metavar="M,M,M")
    std: str | None = option(
        None, "Standard deviation to divide by, likewise, such as 0.25,0.24,0.26.", metavar="S,S,S"
    )


@dataclass(kw_only=True)
class ThreatOptions:
    GROUP: ClassVar[str] = "Attack"

    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None, "Norm of the perturbation.  [default: the checkpoint's, else the data set's]"
    )
    eps: float | str | None = option(
        None,
        "Radius of the perturbation, on [0, 1] pixels, such as 8/255; in l0 how many values may change.  [default: as for "
        "--norm]",
        metavar="EPS",
    )


@dataclass(kw_only=True)
class TrainingDataOptions(DataOptions):
    """Of commands that begin without a checkpoint."""

    GROUP: ClassVar[str] = "Data"

    data: str | None = option(None, f"{SETS}  [default: digits]", metavar="SPEC")


@dataclass(kw_only=True)
class TrainingThreatOptions(ThreatOptions):
    """Of the same commands."""

    GROUP: ClassVar[str] = "Attack"

    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None, "Norm of the perturbation.  [default: the data set's, else linf]"
    )


@dataclass(kw_only=True)
class DeviceOptions:
    GROUP: ClassVar[str] = "Runtime"

    device: str = option("auto", "auto, cpu, cuda or cuda:i.")
    batch_size: int | str | None = option(None, "Images at a time: a number or auto.", metavar="INT|auto")
    quiet: bool = option(False, "Print results only.", group="Output")


@dataclass(kw_only=True)
class RuntimeOptions(DeviceOptions):
    GROUP: ClassVar[str] = "Runtime"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "For speed alone: images, perturbations, losses, weights and verdicts stay fp32. auto: bf16 where the "
        "processor has it to train, and to evaluate where it is faster.",
    )
    seed: int = option(0, "Seed of everything random.")


@dataclass(kw_only=True)
class CompileOption:
    GROUP: ClassVar[str] = "Runtime"

    compile: bool = option(False, "Compile the model (torch.compile): for long runs on CUDA.")


def parse_batch_size(text: int | str | None) -> int | str:
    """A positive number, or auto. Raises InputError."""
    return _count("auto" if text is None else text, "batch_size", "auto")


def parse_numbers(text: str | None, name: str) -> list[float] | None:
    """`0.49,0.48,0.45` as numbers. Raises InputError."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{name} {text!r} is not a list of numbers: write it as 0.49,0.48,0.45") from None


def parse_n(text: int | str) -> int | None:
    """A positive number, or None for all. Raises InputError."""
    value = _count(text, "n", "all")
    return None if value == "all" else int(value)


def _count(text: int | str, name: str, word: str) -> int | str:
    if text == word:
        return str(word)
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise InputError(f"`{name}={text!r}` is not a number of images: give 1 or more, or {word}")
    return value
