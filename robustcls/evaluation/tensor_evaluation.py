"""Evaluate tensors with the options of `robustcls.evaluate`."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._targets import rule_of
from robustcls.core import plugins
from robustcls.core.classifier import check_images
from robustcls.core.config import resolve
from robustcls.core.detector import make_detector
from robustcls.core.errors import InputError, unknown
from robustcls.core.gradients import frozen
from robustcls.core.measures import measures
from robustcls.core.progress import show_attacks
from robustcls.core.threat import ThreatModel
from robustcls.data.images import as_tensor
from robustcls.data.mask_file import read_mask
from robustcls.evaluation.attacks import AttackLike
from robustcls.evaluation.budget import estimate
from robustcls.evaluation.certificate_match import certificates_from
from robustcls.evaluation.config import FPR, AttackConfig, ReportConfig, SubjectOptions
from robustcls.evaluation.evaluate import evaluate_subject, state
from robustcls.evaluation.journal import kept_in
from robustcls.evaluation.plan import add_measures, attacks_of, choose_attacks, make_plan
from robustcls.evaluation.profiles import layered
from robustcls.evaluation.subject import make_subject
from robustcls.evaluation.targets import aimed
from robustcls.results.records import Evaluation

NOTHING = {one.count: 0 for one in measures() if one.count} | {"checks": "passive"}


def _names(config: type) -> set[str]:
    return {field.name for field in fields(config)}


# The options that `robustcls.evaluate` takes besides its own arguments.
OPTIONS = _names(ReportConfig) - _names(SubjectOptions) - {"n", "attack", "suite"} | {"precision"}
MEASURES = OPTIONS - _names(AttackConfig) - {"checks"}  # any of these also runs measures


def read_options(options: Mapping[str, Any], **arguments: Any) -> ReportConfig:
    """Return the options of `robustcls.evaluate` as those of a report.

    Without `profile`, only the measures whose options are given run. Objects, such as a model or functions, are recorded as
    text. arguments: values of the function's own arguments. Raises InputError for an unknown option, and names the nearest
    known one.
    """
    for name in options.keys() - OPTIONS:
        raise unknown("option", name, OPTIONS)
    methods = options.get("method")
    for method in methods if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]:
        if callable(method):
            raise InputError(
                f"`method` holds a function, {plugins.parse('attribution', method).name}, where evaluate takes specs alone: "
                f'name it as "package.module:name", or draw its maps with robustcls.explain(model, images, method=...)'
            )
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()} | arguments
    as_text: dict[str, Callable[[Any], Any]] = {
        "checks": lambda functions: "all",
        "detector": lambda score: getattr(score, "__name__", type(score).__name__),
        "eps_grid": lambda radii: ",".join(map(str, radii)),
        "mask": lambda tensor: "tensor",
        "method": lambda methods: methods,
        "positive": str,
        "target": rule_of,
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
    attacks: AttackLike | Sequence[AttackLike] | None,
    suite: str | None,
    options: Mapping[str, Any],
    *,
    batch_size: int | str,
    seed: int,
    name: str,
    resume: str | Path | None,
    progress: bool,
) -> Evaluation:
    """The implementation of `robustcls.evaluate`."""
    renamed = {"alone": "each_alone"}  # options that had another name in earlier versions
    options = {renamed.get(option, option): value for option, value in options.items()}
    held_out, certificates = options.pop("held_out", None), options.pop("certificates", None)
    config = read_options(options, batch_size=batch_size, seed=seed, quiet=not progress)
    if (mask := options.get("mask")) is not None:
        threat = replace(threat, mask=read_mask(mask) if isinstance(mask, str | Path) else mask)
    threat = replace(threat, eight_bit=threat.eight_bit or config.eight_bit)
    if attacks is None and suite is None:
        attacks, suite = attacks_of(config, threat.norm, detector=options.get("detector") is not None)
    for one in choose_attacks(attacks, suite, threat.norm)[0]:  # before the model is asked
        threat.check_options(one.text, one.options)
    for method in config.method:
        plugins.resolved("attribution", method)
    subject = make_subject(model, x, y, threat, surrogate=options.get("transfer_from"), name=name)
    if held_out is not None and options.get("detector") is None:
        raise InputError("`held_out` is for the threshold of a detector: give `detector`, too, or leave it out")
    if (score := options.get("detector")) is not None:
        if held_out is None:
            raise InputError("`detector` needs clean images besides those that are evaluated: give them as `held_out`")
        images = as_tensor(held_out, "images")
        check_images(images, input_size=x.shape[1:])
        with torch.inference_mode(False), frozen(subject.model):
            subject.detector = make_detector(score, config.fpr or FPR, subject.model, images)
    subject = aimed(subject, options.get("target"), seed=seed, batch_size=batch_size)
    if certificates is not None:
        subject.certificates = certificates_from(certificates, subject)
    plan = make_plan(
        subject, attacks, suite,
        alone=config.each_alone,
        eps_grid=config.eps_grid,
        checks=config.checks if config.checks == "passive" else options.get("checks", "all"),
        batch_size=batch_size,
        precision=config.precision,
        compiled=config.compile,
        seed=seed,
        positive=options.get("positive"),
        tree=config.tree,
    )  # fmt: skip
    say: Callable[[str], None] = partial(print, file=sys.stderr) if progress else lambda text: None
    budget = pace = None
    if options.keys() & MEASURES:
        given = {*options, "n"}  # all samples that were passed in count as asked for
        [estimated] = estimate([subject], [add_measures(plan, subject, config, say=say)], config, given)
        subject, plan, pace = estimated.subject, estimated.plan, estimated.pace
        budget, text = estimated.begin(given)
        say(text)
    with kept_in(resume) as journal:
        evaluation = evaluate_subject(
            subject, plan,
            journal=journal, progress=show_attacks() if progress else None, budget=budget, pace=pace, say=say,
        )  # fmt: skip
    for record in evaluation.attacks:
        if record.error:
            warnings.warn(f"{record.name} failed, and robust accuracy is without it: {record.error}", stacklevel=3)
    state(evaluation, config)
    evaluation.examples = evaluation.examples.to(x.device)
    return evaluation
