"""The options of evaluation."""

import shlex
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.measures import measures, with_fields
from robustcls.core.options import CompileOption, DataOptions, NormalisationOptions, RuntimeOptions, ThreatOptions

LONGEST_LICENSE = 200  # characters
FPR = 0.05  # default false positive rate of a detector


def samples_option(default: str) -> Any:
    """Return the option `n` with the default of a command."""
    text = "Number of samples, drawn in proportion to the classes of the split, or all."
    return option(default, text, metavar="INT|all", group="Data")


@dataclass(kw_only=True)
class SubjectOptions(DataOptions, NormalisationOptions, ThreatOptions, RuntimeOptions):
    """Options that name the model and the samples."""

    GROUP: ClassVar[str] = "Data"

    arch: str | None = option(
        None,
        "Architecture of a state dict, such as vgg16(width=0.25), or your own as module:callable.",
        metavar="SPEC",
        group="Model",
    )
    classes: str | None = option(
        None,
        "File that maps the classes of the data to the model's outputs: lines folder=output, or the names of all outputs "
        "in order, one per line.  [default: by name]",
        metavar="FILE",
        group="Model",
    )
    twin: str | None = option(
        None,
        "For a running service: artefact or checkpoint whose gradients the attacks use; predictions come from the service.",
        metavar="DIR|M",
        group="Model",
    )
    split: Literal["train", "val", "test"] = option("test", "Split of the data to use.")
    redact_names: bool = option(False, "Leave the names of image files out of all output.", group="Output")


@dataclass(kw_only=True)
class AttackConfig(SubjectOptions, CompileOption):
    GROUP: ClassVar[str] = "Attack"

    attack: tuple[str, ...] = option(
        (), "Attack, such as pgd(steps=20), or a suite; repeatable, run in order.", metavar="SPEC"
    )
    suite: str | None = option(
        None,
        "Named list of attacks: fast, verdict, standard, targeted, or rand for a random model.  [default: fast, unless "
        "--attack is given]",
        metavar="NAME",
    )
    target: str | None = option(
        None,
        "Targeted attacks: only this class, by name or number, counts as success. random, least_likely or second (the "
        "runner-up) choose a class for each sample. Runs suite targeted unless attacks are given.",
        metavar="CLASS|random|least_likely|second",
    )
    n: int | str = samples_option("1000")
    each_alone: bool = option(
        False, "Run every attack on every sample, to compare attacks, not only on those still robust."
    )
    eps_grid: str | None = option(
        None, "Also measure robust accuracy at these radii, such as 0,2/255,4/255, or auto.", metavar="EPS,EPS|auto"
    )
    data_note: str | None = option(
        None, "Note on the data for readers, saved in the evaluation.", metavar="TEXT", group="Output"
    )
    intended_use: str | None = option(
        None, "Purpose of the model, saved in the evaluation.", metavar="TEXT", group="Output"
    )
    license: str | None = option(
        None, "Licence of the model, such as MIT, saved in the evaluation.", metavar="SPDX", group="Output"
    )
    positive: str | None = option(
        None,
        "Of two classes, the positive one, whose recall is the sensitivity.  [default: the second]",
        metavar="CLASS",
    )
    tree: str | None = option(
        None,
        "Also measure how severe misclassifications are by this tree of the classes: nested tables of names.",
        metavar="FILE.toml",
    )
    mask: str | None = option(
        None,
        "Let attacks change only the pixels that are white in this image, which has the size of the data's images.",
        metavar="FILE.png",
    )
    eight_bit: bool = option(False, "Round adversarial images to 8 bits per value before they are evaluated.")
    transfer_from: str | None = option(
        None, "Craft the examples on this model and test them on --model: a transfer attack.", metavar="M"
    )

    detector: str | None = option(
        None,
        "Detector used with the model: a function of images and logits that returns a score per image, larger for more "
        "suspicious images. Images above a threshold are rejected; a successful attack must be accepted.",
        metavar="module:score",
    )
    fpr: float | None = option(
        None,
        "False positive rate that sets the detector's threshold: the share of clean held-out images that it rejects.  "
        f"[default: {FPR:g}]",
        metavar="SHARE",
    )

    def __post_init__(self) -> None:
        check_license(self.license)
        if self.fpr is not None:
            check_fpr(self.fpr)
            if self.detector is None:
                raise InputError(
                    f"`fpr={self.fpr:g}` needs a detector, and there is none: give `detector`, or leave out `fpr`"
                )


@dataclass(kw_only=True)
@with_fields({name: declared for one in measures() for name, declared in one.option_fields().items()})
class ReportConfig(AttackConfig):
    """The options of a report: those of the attacks, those below, and those that each of `evaluation/measures` declares."""

    GROUP: ClassVar[str] = "Report"

    method: tuple[str, ...] = option(
        (), "Attribution method (repeatable).  [default: three]", metavar="SPEC", group="Explanation"
    )
    checks: Literal["passive", "all"] = option(
        "all", "Self-checks to run: passive (none or short attacks on few samples), or all."
    )
    profile: Literal["quick", "standard", "full"] = option(
        "standard", "How much to measure; every other option overrides it."
    )
    minutes: float | None = option(
        None,
        "Time limit for the report of one model. To keep it, fewer samples are measured, parts are left out, or attacks are "
        "stopped.  [default: with profile quick 2 for images of 32 pixels, 5 for 224 or more; else no limit]",
        metavar="MINUTES",
        group="Runtime",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(**{one.count: getattr(self, one.count) for one in measures() if one.count})
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise InputError(
                f"`minutes={self.minutes:g}` is not a time: give a number above 0, or leave it out for no limit"
            )


@dataclass(kw_only=True)
class ExplainConfig(SubjectOptions):
    GROUP: ClassVar[str] = "Explanation"

    attack: str = option("pgd(steps=20)", "Attack that makes the adversarial images.", metavar="SPEC", group="Attack")
    method: tuple[str, ...] = option((), "Attribution method (repeatable).  [default: three]", metavar="SPEC")
    n: int | str = samples_option("32")
    pictures: int = option(8, "Number of samples to draw as pictures.")
    quality_n: int = option(50, "Largest number of samples for measures of quality and sanity; 0: no measures.")
    out: str | None = option(
        None, "Folder for the files.  [default: explain, next to the checkpoint]", metavar="DIR", group="Output"
    )

    def __post_init__(self) -> None:
        _check_counts(pictures=self.pictures, quality_n=self.quality_n)


def check_license(text: str | None) -> None:
    """Raise InputError unless the licence is one line, such as an SPDX identifier."""
    if text is not None and (not text.strip() or not text.isprintable() or len(text) > LONGEST_LICENSE):
        raise InputError(f"license {text!r:.40} is not one line: give an SPDX identifier such as MIT or Apache-2.0")


# The options that choose the model and the samples.
_OF_SUBJECT = {one.name for one in fields(SubjectOptions)} - {"quiet", "redact_names"} | {"n", "mask", "eight_bit"}


def flags_of(options: SubjectOptions) -> str:
    """Return the options that a command needs, besides the model, to evaluate the same samples: those that are not default."""
    flags = []
    for one in fields(options):
        value = getattr(options, one.name)
        if value in (one.default, None) or one.name not in _OF_SUBJECT:
            continue
        flags += [f"--{one.name.replace('_', '-')}", *([] if value is True else [shlex.quote(str(value))])]
    return " ".join(flags)


def check_fpr(fpr: float) -> None:
    """Raise InputError unless the false positive rate lies between 0 and 1, both excluded."""
    if not 0 < fpr < 1:
        raise InputError(f"`fpr={fpr:g}` is not a false positive rate: give a share above 0 and below 1, such as 0.05")


METHODS = ("saliency", "integrated_gradients", "gradcam")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise InputError(f"`{name}={count}` is negative: give 0 or more")
