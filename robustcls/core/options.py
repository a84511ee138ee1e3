"""The options that several commands share. Each is declared here and nowhere else."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError

REST = "rest"  # a data spec for images without labels: the training images that `limit_train` leaves out


# Parts of help texts that several commands extend
SETS = "Data set: digits, cifar10, cifar100, svhn, fashion_mnist, folder:PATH, shortcut(DATA, strength=0.9) or module:callable."

MEAN = (
    "Mean to subtract from the pixels, such as 0.49,0.48,0.45, if the network does not normalise its input. Without it, a "
    "module:callable receives [0, 1] pixels."
)


@dataclass(kw_only=True)
class DataOptions:
    GROUP: ClassVar[str] = "Data"

    data: str | None = option(None, f"{SETS}  [default: the checkpoint's, or digits]", metavar="SPEC")
    data_dir: str | None = option(None, "Folder of downloaded data sets.  [default: ~/.cache/robustcls]", metavar="DIR")
    skip_corrupt: bool = option(False, "Skip images of a folder that cannot be read, and list them.")


@dataclass(kw_only=True)
class NormalisationOptions:
    """The normalisation in front of a network that was not trained by robustcls."""

    GROUP: ClassVar[str] = "Model"

    mean: str | None = option(None, MEAN, metavar="M,M,M")
    std: str | None = option(
        None, "Standard deviation to divide the pixels by, such as 0.25,0.24,0.26; see --mean.", metavar="S,S,S"
    )


@dataclass(kw_only=True)
class ThreatOptions:
    GROUP: ClassVar[str] = "Attack"

    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None, "Norm of the perturbation.  [default: the checkpoint's, else the data set's]"
    )
    eps: float | str | None = option(
        None,
        "Radius of the perturbation, for pixels in [0, 1], such as 8/255; for l0 the number of values that may change.  "
        "[default: as for --norm]",
        metavar="EPS",
    )


@dataclass(kw_only=True)
class TrainingDataOptions(DataOptions):
    """The data options of commands that start without a checkpoint."""

    GROUP: ClassVar[str] = "Data"

    data: str | None = option(None, f"{SETS}  [default: digits]", metavar="SPEC")


@dataclass(kw_only=True)
class TrainingThreatOptions(ThreatOptions):
    """The threat options of commands that start without a checkpoint."""

    GROUP: ClassVar[str] = "Attack"

    norm: Literal["linf", "l2", "l1", "l0"] | None = option(
        None, "Norm of the perturbation.  [default: the data set's, else linf]"
    )


@dataclass(kw_only=True)
class DeviceOptions:
    GROUP: ClassVar[str] = "Runtime"

    device: str = option("auto", "Device: auto, cpu, cuda or cuda:i.")
    batch_size: int | str | None = option(None, "Images per batch: a number, or auto.", metavar="INT|auto")
    quiet: bool = option(False, "Print results only.", group="Output")


@dataclass(kw_only=True)
class RuntimeOptions(DeviceOptions):
    GROUP: ClassVar[str] = "Runtime"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "Precision of the model's computations, for speed only: images, perturbations, losses, weights and verdicts stay in "
        "fp32. auto: bf16 for training if the processor supports it, and for evaluation if it is faster.",
    )
    seed: int = option(0, "Seed of all random numbers.")


@dataclass(kw_only=True)
class CompileOption:
    GROUP: ClassVar[str] = "Runtime"

    compile: bool = option(False, "Compile the model with torch.compile. Worthwhile for long runs on CUDA.")


def parse_batch_size(text: int | str | None) -> int | str:
    """Return the batch size as a positive number or "auto". Raises InputError."""
    return _count("auto" if text is None else text, "batch_size", "auto")


def parse_numbers(text: str | None, name: str) -> list[float] | None:
    """Return the numbers of a text such as `0.49,0.48,0.45`. Raises InputError."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{name} {text!r} is not a list of numbers: write it as 0.49,0.48,0.45") from None


def parse_n(text: int | str) -> int | None:
    """Return the number of samples, or None for `all`. Raises InputError."""
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
