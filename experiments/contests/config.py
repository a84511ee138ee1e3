"""The options of the contests."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.bench.config import check_load
from robustcls.core.config import option
from robustcls.core.errors import InputError, unknown
from robustcls.core.options import RuntimeOptions
from robustcls.core.plugins import names

# Contests with their default number of rounds: all but pgd take minutes.
CONTESTS = {"pgd": 3, "fast": 1, "autoattack": 1, "single": 1}
TRAININGS = ("clean", "fgsm_rs", "pgd10", "trades10")
EVALUATIONS = {"pgd20": "pgd", "fast": "fast"}  # workloads of the cuda suite, with the contest that measures each


@dataclass(kw_only=True)
class ContestConfig(RuntimeOptions):
    GROUP: ClassVar[str] = "Benchmark"

    suite: Literal["train", "attack", "explain", "serve", "cuda", "all"] = option(
        "all", "Suite to measure; all: the first three."
    )
    contest: tuple[str, ...] = option(
        (),
        "Contest of the attack suite: pgd, fast, autoattack, single or all; repeatable.  [default: pgd]",
        metavar="NAME",
    )
    workload: tuple[str, ...] = option(
        (),
        f"Workload of the cuda suite: {', '.join((*TRAININGS, *EVALUATIONS))}; repeatable.  [default: all]",
        metavar="NAME",
    )
    method: tuple[str, ...] = option(
        (), "Attribution method of the explain suite; repeatable.  [default: all]", metavar="NAME"
    )
    data: str = option("digits", "Data set.", metavar="SPEC")
    data_dir: str | None = option(None, "Folder of downloaded data sets.", metavar="DIR")
    arch: str | None = option(
        None,
        "Architecture to train, or of a state dict.  [default: vgg16(width=0.25); in the suite cuda vgg16, then resnet18]",
        metavar="SPEC",
    )
    model: str | None = option(
        None,
        "Model to attack, explain or serve, as for `robustcls attack`.  [default: one trained for some seconds]",
        metavar="M",
    )
    mean: str | None = option(None, "Mean for normalising foreign weights, such as 0.49,0.48,0.45.", metavar="M,M,M")
    std: str | None = option(None, "Standard deviation for it, such as 0.25,0.24,0.26.", metavar="S,S,S")
    norm: Literal["linf", "l2", "l1"] = option("linf", "Norm of the perturbation.")
    eps: str = option("8/255", "Radius of the perturbation.", metavar="EPS")
    train_steps: int = option(3, "PGD steps in training.")
    attack_steps: int = option(20, "PGD steps in the contest pgd.")
    art_autoattack: bool = option(False, "Also run ART's AutoAttack in the contest autoattack; it is slow.")
    updates: int = option(20, "Updates that each training contestant makes in a round.")
    n: int | None = option(
        None,
        "Images that each contestant attacks, or at most explains, in a round; in the suite serve, requests at half load.  "
        "[default: 256; suite cuda 10000; suite serve 5000]",
    )
    rounds: int | None = option(
        None,
        "Number of rounds, in which every contestant has one turn.  [default: 3 in the suites train and serve and the "
        "contest pgd, otherwise 1]",
    )
    seconds: float = option(10.0, "Duration of each of the other loads of the suite serve.", metavar="SECONDS")
    deadline: float = option(1.0, "Time within which a service must answer under load.", metavar="SECONDS")
    out: str | None = option(None, "Also write the measurements as JSON.", metavar="FILE.json")

    def __post_init__(self) -> None:
        for name in ("train_steps", "attack_steps", "n", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value} is too small: give 1 or more")
        if self.updates < 4:
            raise InputError(f"--updates {self.updates} is too small: give 4 or more, as the first two only warm up")
        check_load(self.seconds, self.deadline)
        for contest in self.contest:
            if contest not in (*CONTESTS, "all"):
                raise unknown("contest", contest, (*CONTESTS, "all"))
        if self.suite == "cuda" and self.attack_steps != 20:
            raise InputError(f"--attack-steps {self.attack_steps}: the suite cuda measures pgd20, so leave it out")
        if self.suite == "cuda" and self.model and not self.arch:
            raise InputError(f"--model {self.model} is one architecture: give its --arch to the suite cuda")
        if self.suite != "cuda" and self.workload:
            raise InputError(f"--workload {self.workload[0]} is an option of --suite cuda: add that, or leave it out")
        for workload in self.workload:
            if workload not in (*TRAININGS, *EVALUATIONS):
                raise unknown("workload", workload, (*TRAININGS, *EVALUATIONS))
        for method in self.method:
            if method not in names("attribution"):
                raise unknown("attribution method", method, names("attribution"))

    @property
    def contests(self) -> list[str]:
        """The requested contests, the quickest first."""
        asked = self.contest or ("pgd",)
        return [name for name in CONTESTS if name in asked or "all" in asked]

    @property
    def archs(self) -> list[str]:
        """The architectures to measure, one after another."""
        return [self.arch] if self.arch else ["vgg16", "resnet18"] if self.suite == "cuda" else ["vgg16(width=0.25)"]

    @property
    def num_samples(self) -> int:
        return self.n or (10_000 if self.suite == "cuda" else 256)

    @property
    def trainings(self) -> list[str]:
        return [name for name in TRAININGS if name in (self.workload or TRAININGS)]

    @property
    def evaluations(self) -> list[str]:
        return [name for name in EVALUATIONS if name in (self.workload or EVALUATIONS)]

    def rounds_of(self, contest: str) -> int:
        return self.rounds or CONTESTS[contest]
