"""The options of the benchmark."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError, unknown
from robustcls.core.options import RuntimeOptions
from robustcls.core.plugins import names

TRAININGS = ("clean", "fgsm_rs", "pgd3", "pgd10", "trades10")
ATTACKS = ("pgd20", "fast", "standard")
WORKLOADS: dict[str, tuple[str, ...]] = {  # default workloads of each suite
    "train": ("pgd3",),
    "attack": ("pgd20",),
    "explain": (),
    "deploy": (),
    "serve": (),
    "cuda": ("clean", "fgsm_rs", "pgd10", "trades10", "pgd20", "fast"),
    "all": ("pgd3", "pgd20"),
}


REQUESTS = 5000  # requests at half load; with fewer, the 99th percentile depends on only a few requests


def check_load(seconds: float, deadline: float) -> None:
    """Raise InputError if a time is not positive and finite."""
    for name, value in (("seconds", seconds), ("deadline", deadline)):
        if not 0 < value < float("inf"):
            raise InputError(f"`{name}={value:g}` is not a time: give more than 0")


@dataclass(kw_only=True)
class BenchConfig(RuntimeOptions):
    GROUP: ClassVar[str] = "Benchmark"

    suite: Literal["train", "attack", "explain", "deploy", "serve", "cuda", "all"] = option(
        "all",
        "What to measure. all: train, attack and explain; deploy: a model in PyTorch, exported, quantised to 8 bits and "
        "pruned, on one thread; serve: a service under load; cuda: training and attacks of full-size architectures on a GPU.",
    )
    workload: tuple[str, ...] = option(
        (),
        f"Training ({', '.join(TRAININGS)}) or attack ({', '.join(ATTACKS)}) to measure instead of the suite's default; "
        "repeatable.",
        metavar="NAME",
    )
    method: tuple[str, ...] = option(
        (), "Attribution method for the suite explain; repeatable.  [default: all]", metavar="NAME"
    )
    data: str = option("digits", "Data set.", metavar="SPEC", group="Data")
    data_dir: str | None = option(None, "Folder of downloaded data sets.", metavar="DIR", group="Data")
    arch: str | None = option(
        None,
        "Architecture to train, or of a state dict.  [default: vgg16(width=0.25); in the suite cuda vgg16, then resnet18]",
        metavar="SPEC",
        group="Model",
    )
    model: str | None = option(
        None,
        "Model to attack, explain or serve, in any form that `robustcls attack` accepts; the suite serve exports it first "
        "unless it is an artefact.  [default: a model trained for a few seconds]",
        metavar="M",
        group="Model",
    )
    mean: str | None = option(
        None, "Mean of the normalisation for other weights, such as 0.49,0.48,0.45.", metavar="M,M,M", group="Model"
    )
    std: str | None = option(
        None,
        "Standard deviation of the normalisation for other weights, such as 0.25,0.24,0.26.",
        metavar="S,S,S",
        group="Model",
    )
    norm: Literal["linf", "l2", "l1"] = option("linf", "Norm of the perturbation.", group="Attack")
    eps: str = option("8/255", "Radius of the perturbation.", metavar="EPS", group="Attack")
    updates: int = option(20, "Optimiser updates per training measurement.")
    n: int | None = option(
        None,
        "Images to attack, and largest number of images to explain; in the suite serve, requests at half load.  [default: "
        "256; in the suite cuda 10000; in the suite serve 5000]",
        group="Data",
    )
    rounds: int | None = option(
        None,
        "Number of times that everything is measured; medians are shown.  [default: 3; in the suites explain and cuda 1]",
    )
    seconds: float = option(10.0, "Duration of each further load in the suite serve.", metavar="SECONDS")
    deadline: float = option(
        1.0, "Time within which the service must answer under load in the suite serve.", metavar="SECONDS"
    )
    out: str | None = option(None, "Also write the measurements as JSON.", metavar="FILE.json", group="Output")

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("rounds", 1), ("updates", 4)):  # the first two updates only warm up
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}={value}` is too small: give {least} or more")
        check_load(self.seconds, self.deadline)
        if self.suite == "cuda" and self.model and not self.arch:
            raise InputError(
                f"`model={self.model}` needs its `arch` in the suite cuda: give the architecture with `arch`"
            )
        for kind, given, known in (
            ("workload", self.workload, (*TRAININGS, *ATTACKS)),
            ("attribution method", self.method, names("attribution")),
        ):
            for name in given:
                if name not in known:
                    raise unknown(kind, name, known)

    @property
    def workloads(self) -> tuple[str, ...]:
        return self.workload or WORKLOADS[self.suite]

    @property
    def archs(self) -> tuple[str, ...]:
        return (self.arch,) if self.arch else ("vgg16", "resnet18") if self.suite == "cuda" else ("vgg16(width=0.25)",)
