"""An evaluation with all that a report shows, of one model or of several on the same samples, within a time limit."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.config import resolve
from robustcls.core.errors import unknown
from robustcls.evaluation.budget import Estimate, estimate
from robustcls.evaluation.cascade import Progress
from robustcls.evaluation.complete import complete
from robustcls.evaluation.config import METHODS, AttackConfig, ReportConfig, SubjectOptions
from robustcls.evaluation.corrupted import read_published
from robustcls.evaluation.evaluate import evaluate_subject, record_options
from robustcls.evaluation.explain import supported_methods
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.plan import Plan, choose_attacks
from robustcls.evaluation.profiles import layered
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Evaluation
from robustcls.runtime.device import resolve_batch_size

NOTHING = {"examples": 0, "maps_n": 0, "curves_n": 0, "minimum_n": 0, "corruptions_n": 0, "checks": "passive"}


def _names(config: type) -> set[str]:
    return {field.name for field in fields(config)}


# What `robustcls.evaluate` takes beside its own arguments, which say what is evaluated.
OPTIONS = _names(ReportConfig) - _names(SubjectOptions) - {"n", "attack", "suite"} | {"precision"}
MEASURES = OPTIONS - _names(AttackConfig) - {"checks"}  # one of them asks for measures beside the attacks


def read_options(options: Mapping[str, Any], **more: Any) -> ReportConfig:
    """The options of `robustcls.evaluate` as those of a report: nothing but what is named is measured, unless a profile
    says so. Of what may be an object, there stands what comes next to it.

    Raises InputError for an unknown one, naming the nearest.
    """
    for name in options.keys() - OPTIONS:
        raise unknown("option", name, OPTIONS)
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()} | more
    as_text: dict[str, Callable[[Any], Any]] = {
        "checks": lambda functions: "all",
        "eps_grid": lambda radii: ",".join(map(str, radii)),
        "method": lambda methods: methods,
        "positive": str,
        "transfer_from": lambda model: type(model).__name__,
    }
    for name, change in as_text.items():
        if given.get(name) is not None and not isinstance(given[name], str):
            given[name] = change(given[name])
    if isinstance(given.get("method"), str):
        given["method"] = (given["method"],)
    if "profile" in options:
        return resolve(ReportConfig, *layered(given))
    config = resolve(ReportConfig, NOTHING, given)
    config.profile = ""  # type: ignore[assignment]
    return config


def check(config: ReportConfig) -> None:
    """Raises InputError for attacks and attribution methods that do not exist, before anything is loaded."""
    choose_attacks(config.attack or None, config.suite, config.norm or "linf")
    for method in config.method:
        plugins.resolved("attribution", method)
    if config.corruptions_from:
        read_published(Path(config.corruptions_from))


def prepare(
    subjects: Sequence[Subject],
    plans: Callable[[Subject], Plan],
    config: ReportConfig,
    given: Collection[str],
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[Estimate]:
    """What is to be measured of each subject, on how many samples, and how long it takes.

    Args:
        plans: makes the plan of a subject.
        given: options that the user named, whose counts win over the time limit of a profile.
        say: told which attribution methods are left out, and why.

    Raises:
        InputError: for what cannot be measured, before an attack is paid for.
    """
    methods: Sequence[str] = config.method or METHODS
    if config.corruptions_from:
        files = read_published(Path(config.corruptions_from))
        for subject in subjects:
            files.numbered_as(subject.data_record.class_map).check_model(subject.model, subject.x[:1])
    wanted = methods if config.examples or config.maps_n else ()
    supported = [supported_methods(one, wanted, strict=bool(config.method), say=say) for one in subjects]
    return estimate(subjects, list(map(plans, subjects)), supported, config, given)


def measure(
    its: Estimate,
    config: ReportConfig,
    given: Collection[str],
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[Evaluation], None] = lambda evaluation: None,
    journal: Journal | None = None,
    command: str = "",
) -> Evaluation:
    """Runs the attacks, then the measures, of what `prepare` made.

    Args:
        given: as `prepare` takes it.
        say: told what comes next, and what it will take.
        done: called after the attacks and after each measure.
        journal: keeps what the attacks have done.
        command: whose options are recorded; without one they are not.
    """
    budget, text = its.begin(given)
    say(text)
    run = partial(evaluate_subject, command=command) if command else evaluate_subject
    evaluation = run(its.subject, its.plan, journal=journal, progress=progress, over=budget.over)
    if command:
        record_options(evaluation, config)
    if its.reduced:
        evaluation.reduced["attacks"] = its.reduced
    size = resolve_batch_size(its.plan.batch_size, its.subject.x.shape[1:], device_of(its.subject.model))
    return complete(
        its.subject, evaluation, config, its.methods, size,
        budget=budget, pace=its.pace, say=say, done=lambda: done(evaluation),
    )  # fmt: skip
