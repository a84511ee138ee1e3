"""The options of evaluation."""

import shlex
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.measures import measures, with_fields
from robustcls.core.options import CompileOption, DataOptions, NormalisationOptions, RuntimeOptions, ThreatOptions

LONGEST_LICENSE = 200  # characters
FPR = 0.05  # of a detector


def samples_option(default: str) -> Any:
    """`n`, of which each command has its own default."""
    return option(default, "Samples, of each class its share of the split; or all.", metavar="INT|all", group="Data")


@dataclass(kw_only=True)
class SubjectOptions(DataOptions, NormalisationOptions, ThreatOptions, RuntimeOptions):
    """Which model on which samples."""

    GROUP: ClassVar[str] = "Data"

    arch: str | None = option(
        None,
        "Architecture of a state dict, such as vgg16(width=0.25), or a module:callable of your own.",
        metavar="SPEC",
        group="Model",
    )
    classes: str | None = option(
        None,
        "Which of the model's outputs each class of the data is: lines folder=output, or the names of all outputs in "
        "order, one per line.  [default: by name]",
        metavar="FILE",
        group="Model",
    )
    twin: str | None = option(
        None,
        "Of a running service, the artefact or checkpoint whose gradients attacks follow; the answers stay the service's.",
        metavar="DIR|M",
        group="Model",
    )
    split: Literal["train", "val", "test"] = option("test", "Which samples.")
    redact_names: bool = option(
        False, "Keep the names of image files out of everything that is written.", group="Output"
    )


@dataclass(kw_only=True)
class AttackConfig(SubjectOptions, CompileOption):
    GROUP: ClassVar[str] = "Attack"

    attack: tuple[str, ...] = option(
        (), "Attack, such as pgd(steps=20), or a suite; repeatable, run in order.", metavar="SPEC"
    )
    suite: str | None = option(
        None,
        "Named list of attacks: fast, verdict, standard, targeted, or rand for a random model.  [default: fast, without "
        "--attack]",
        metavar="NAME",
    )
    target: str | None = option(
        None,
        "Success is this class and no other, by name or number; random, least_likely or second (the runner-up) choose one for "
        "each sample. Attacks: suite targeted unless given.",
        metavar="CLASS|random|least_likely|second",
    )
    n: int | str = samples_option("1000")
    each_alone: bool = option(False, "Run every attack on every sample, to compare attacks; survivors only else.")
    eps_grid: str | None = option(
        None, "Also measure robust accuracy at these radii, such as 0,2/255,4/255, or auto.", metavar="EPS,EPS|auto"
    )
    data_note: str | None = option(
        None, "What a reader must know of the data, kept in the evaluation.", metavar="TEXT", group="Output"
    )
    intended_use: str | None = option(
        None, "What the model is for, kept in the evaluation.", metavar="TEXT", group="Output"
    )
    license: str | None = option(
        None, "Licence of the model, kept in the evaluation, such as MIT.", metavar="SPDX", group="Output"
    )
    positive: str | None = option(
        None, "Of two classes, the one that sensitivity is about.  [default: the second]", metavar="CLASS"
    )
    tree: str | None = option(
        None,
        "Also measure how far mistakes are by this tree of the classes: nested tables of names.",
        metavar="FILE.toml",
    )
    mask: str | None = option(
        None, "Only pixels that are white in this image, of the size of the data's, may change.", metavar="FILE.png"
    )
    eight_bit: bool = option(False, "Examples count as the images in 8 bits that they are rounded to.")
    transfer_from: str | None = option(
        None, "Craft the examples on this model and test them on --model: a transfer attack.", metavar="M"
    )

    detector: str | None = option(
        None,
        "A detector beside the model, a function of images and logits that gives a score per image, larger where it is more "
        "suspicious: answers above a threshold are refused, and attacks must not be.",
        metavar="module:score",
    )
    fpr: float | None = option(
        None,
        f"Share of clean held-out images that the detector refuses: it chooses the threshold.  [default: {FPR:g}]",
        metavar="SHARE",
    )

    def __post_init__(self) -> None:
        check_license(self.license)
        if self.fpr is not None:
            check_fpr(self.fpr)
            if self.detector is None:
                raise InputError(
                    f"`fpr={self.fpr:g}` is about a detector, and there is none: give `detector`, or leave out `fpr`"
                )


@dataclass(kw_only=True)
@with_fields({name: declared for one in measures() for name, declared in one.option_fields().items()})
class ReportConfig(AttackConfig):
    """The options of the attacks, those here, and those that each of `evaluation/measures` declares."""

    GROUP: ClassVar[str] = "Report"

    method: tuple[str, ...] = option(
        (), "Attribution method (repeatable).  [default: three]", metavar="SPEC", group="Explanation"
    )
    checks: Literal["passive", "all"] = option(
        "all", "Self-checks: passive, which attack few samples shortly or none, or all."
    )
    profile: Literal["quick", "standard", "full"] = option(
        "standard", "How much is measured; every other option wins over it."
    )
    minutes: float | None = option(
        None,
        "Time that the report of one model may take: fewer samples are measured, parts left out, or attacks stopped, to keep "
        "it.  [default: of the profile quick 2 for images of 32 pixels, 5 from 224 on; else no limit]",
        metavar="MINUTES",
        group="Runtime",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(**{one.count: getattr(self, one.count) for one in measures() if one.count})
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise InputError(
                f"`minutes={self.minutes:g}` is no time: give a number above 0, or leave it out for no limit"
            )


@dataclass(kw_only=True)
class ExplainConfig(SubjectOptions):
    GROUP: ClassVar[str] = "Explanation"

    attack: str = option("pgd(steps=20)", "Attack that makes the adversarial images.", metavar="SPEC", group="Attack")
    method: tuple[str, ...] = option((), "Attribution method (repeatable).  [default: three]", metavar="SPEC")
    n: int | str = samples_option("32")
    pictures: int = option(8, "Samples that are also drawn.")
    quality_n: int = option(50, "Samples at most on which quality and sanity are measured; 0: no measures at all.")
    out: str | None = option(
        None, "Folder for the files.  [default: explain, beside the checkpoint]", metavar="DIR", group="Output"
    )

    def __post_init__(self) -> None:
        _check_counts(pictures=self.pictures, quality_n=self.quality_n)


def check_license(text: str | None) -> None:
    """Raises InputError unless it is one line, as an SPDX identifier is."""
    if text is not None and (not text.strip() or not text.isprintable() or len(text) > LONGEST_LICENSE):
        raise InputError(f"license {text!r:.40} is not one line: give an SPDX identifier such as MIT or Apache-2.0")


# What names the model and the samples, and nothing else.
_OF_SUBJECT = {one.name for one in fields(SubjectOptions)} - {"quiet", "redact_names"} | {"n", "mask", "eight_bit"}


def flags_of(options: SubjectOptions) -> str:
    """What a command must say, beside the model, to evaluate the same: what is not the default."""
    said = []
    for one in fields(options):
        value = getattr(options, one.name)
        if value in (one.default, None) or one.name not in _OF_SUBJECT:
            continue
        said += [f"--{one.name.replace('_', '-')}", *([] if value is True else [shlex.quote(str(value))])]
    return " ".join(said)


def check_fpr(fpr: float) -> None:
    """Raises InputError unless it is a share between none and all."""
    if not 0 < fpr < 1:
        raise InputError(f"`fpr={fpr:g}` is no false positive rate: give a share above 0 and below 1, such as 0.05")


METHODS = ("saliency", "integrated_gradients", "gradcam")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"`{name}={count}` is negative: give 0 or more")
