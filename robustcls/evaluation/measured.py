"""An evaluation with all that a report shows, of one model or of several on the same samples, within a time limit."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.config import resolve
from robustcls.core.errors import unknown
from robustcls.core.progress import show_attacks
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import AttackLike
from robustcls.evaluation.budget import Estimate, estimate
from robustcls.evaluation.cascade import Progress
from robustcls.evaluation.complete import complete
from robustcls.evaluation.config import METHODS, AttackConfig, ReportConfig, SubjectOptions
from robustcls.evaluation.corrupted import read_published
from robustcls.evaluation.evaluate import evaluate_subject, record_options, state
from robustcls.evaluation.explain import supported_methods
from robustcls.evaluation.journal import Journal, kept_in
from robustcls.evaluation.plan import Plan, choose_attacks, make_plan
from robustcls.evaluation.profiles import layered
from robustcls.evaluation.subject import Subject, make_subject
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


def evaluate_tensors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    suite: str | None,
    attacks: AttackLike | Sequence[AttackLike] | None,
    options: Mapping[str, Any],
    *,
    batch_size: int | str,
    seed: int,
    name: str,
    resume: str | Path | None,
    progress: bool,
) -> Evaluation:
    """What `robustcls.evaluate` does."""
    config = read_options(options, batch_size=batch_size, seed=seed, quiet=not progress)
    if attacks is None and suite is None:
        attacks, suite = config.attack or None, config.suite
    for one in choose_attacks(attacks, suite, threat.norm)[0]:  # before the model is asked
        threat.check_options(one.text, one.options)
    check(config)
    subject = make_subject(model, x, y, threat, surrogate=options.get("transfer_from"), name=name)

    def plan_of(subject: Subject) -> Plan:
        return make_plan(
            subject, attacks, suite,
            alone=config.each_alone,
            eps_grid=config.eps_grid,
            checks=config.checks if config.checks == "passive" else options.get("checks", "all"),
            batch_size=batch_size,
            precision=config.precision,
            compiled=config.compile,
            seed=seed,
            positive=options.get("positive"),
        )  # fmt: skip

    show = show_attacks() if progress else None
    with kept_in(resume) as journal:
        if options.keys() & MEASURES:
            say = partial(print, file=sys.stderr) if progress else lambda text: None
            given = {*options, "n"}  # the samples are those that were given
            [its] = prepare([subject], plan_of, config, given, say=say)
            evaluation = measure(its, config, given, progress=show, say=say, journal=journal)
        else:
            evaluation = evaluate_subject(subject, plan_of(subject), journal=journal, progress=show)
    state(evaluation, config)
    evaluation.examples = evaluation.examples.to(x.device)
    return evaluation


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
