"""Evaluate a subject as a plan says: the cascade, self-checks, security curve and measures, as one Evaluation."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.provenance import commit, versions
from robustcls.evaluation.budget import Budget
from robustcls.evaluation.cascade import Outcome, Progress, run_cascade
from robustcls.evaluation.certificate_check import check_certificates
from robustcls.evaluation.checks import run_checks
from robustcls.evaluation.checks._check import looked_at
from robustcls.evaluation.config import AttackConfig
from robustcls.evaluation.curves import security_curve
from robustcls.evaluation.engine import Engine, Over, never
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.pace import Pace
from robustcls.evaluation.plan import Plan
from robustcls.evaluation.rejection import under_detector
from robustcls.evaluation.run_measures import run_measures
from robustcls.evaluation.subject import Subject
from robustcls.evaluation.two_classes import tell_apart
from robustcls.evaluation.under_noise import accuracy_under_noise
from robustcls.models.remote import remote_of
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.results.balance import balanced_of, two_classes_of
from robustcls.results.records import (
    Accuracy,
    Check,
    CurvePoint,
    Evaluation,
    Mask,
    Provenance,
    Service,
    Targeted,
    Threat,
)
from robustcls.results.severity import severity_of
from robustcls.runtime.device import describe_device, resolve_batch_size, resolve_precision
from robustcls.runtime.search import faster_precision
from robustcls.runtime.world import World

Examples = Literal["all", "broken", ""]


def evaluate_subject(
    subject: Subject,
    plan: Plan,
    *,
    journal: Journal | None = None,
    world: World | None = None,
    progress: Progress | None = None,
    budget: Budget | None = None,
    pace: Pace | None = None,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[Evaluation], None] = lambda evaluation: None,
    options: AttackConfig | None = None,
    command: str = "robustcls.evaluate",
    examples: Examples = "all",
) -> Evaluation:
    """Run the cascade, self-checks, security curve and measures of a plan.

    `.examples` of the returned Evaluation holds the tensors.

    Args:
        journal: stores finished batches, so that an interrupted evaluation can be resumed.
        budget: time limit: when it is used up, attacks, including those of self-checks, are stopped and recorded with that
            reason. Measures then use fewer samples, or are left out.
        pace: measured speed of the model, if it is known already.
        say: called with a line on what is measured next and how long it will take.
        done: called after the attacks and after each measure.
        options: options of a command, to be recorded together with what they state about the model and its data.
        command: the command, for the record.
        examples: for many large images, which adversarial images to keep besides those that the plan needs: those of `all`
            samples, of the `broken` ones, or of none (`""`).
    """
    over = budget.over if budget else never
    keep = None if _needs_all(subject, plan) or examples == "all" else partial(_keep, examples)
    evaluation = _run_attacks(subject, plan, journal, world, progress, over, command, keep)
    size = evaluation.provenance.config["batch_size"]
    if options is not None:
        _record_options(evaluation, options)
    check = partial(
        check_certificates, subject, evaluation, seed=plan.seed, batch_size=size, progress=progress is not None
    )
    check()
    if plan.measures is not None:
        run_measures(
            subject, plan, evaluation, size, budget=budget, pace=pace, progress=progress is not None, say=say, done=done
        )
        if evaluation.provenance.service:
            evaluation.provenance.service.queries = _queries(subject)
        check()  # again, with the adversarial examples that the measures found
    return evaluation


def _run_attacks(
    subject: Subject,
    plan: Plan,
    journal: Journal | None,
    world: World | None,
    progress: Progress | None,
    over: Over,
    command: str,
    keep: Callable[[Engine, Outcome, Tensor], Tensor] | None,
) -> Evaluation:
    started, began = datetime.now(UTC), time.perf_counter()
    engine = make_engine(subject, plan, journal=journal, world=world, over=over)
    # Attacks need gradients even if the caller disabled them.
    with torch.inference_mode(False), frozen(subject.model), frozen(subject.source):
        if (predict_labels(engine.logits) == NO_ANSWER).all():
            raise InputError(
                "the model's outputs are not numbers on any of these images: check its weights and its normalisation"
            )
        if journal is not None:
            choice = "all" if keep is None else ", ".join(map(str, keep.args))  # type: ignore[attr-defined]
            journal.open(_task(engine, plan) | {"choice of examples to keep": choice}, engine.logits)
        outcome = run_cascade(
            engine, plan.attacks, alone=plan.alone, progress=progress, keep=partial(keep, engine) if keep else None
        )
        checks = run_checks(engine, outcome, plan.checks, progress)
        left_out = over()
        curve = None
        if plan.eps_grid and not left_out:
            curve = security_curve(engine, outcome, plan.eps_grid, progress)
        evaluation = _record(engine, plan, outcome, checks, curve)
    if plan.eps_grid and left_out:
        evaluation.not_run["curves"] = left_out
    elif plan.eps_grid and (cut_off := over()):
        evaluation.reduced["curves"] = f"radii are missing: {cut_off}"
    provenance = evaluation.provenance
    provenance.command, provenance.started = command, started.isoformat(timespec="seconds")
    provenance.seconds = round(time.perf_counter() - began, 3)
    evaluation.examples = outcome
    return evaluation


def _needs_all(subject: Subject, plan: Plan) -> bool:
    """Whether a later step uses the adversarial images of all samples, or chooses among them by the results."""
    random = averaged_in(subject.model)  # accuracy under noise uses all of them
    return bool(plan.eps_grid or plan.measures or plan.checks or subject.two_labels or random)


def _keep(examples: Examples, engine: Engine, outcome: Outcome, done: Tensor) -> Tensor:
    wanted = looked_at(engine, outcome, done)
    if engine.subject.detector is not None:  # some robust samples were misclassified but rejected: counted as caught
        wanted |= outcome.robust
    return wanted | outcome.success if examples == "broken" else wanted


def _record_options(evaluation: Evaluation, options: AttackConfig) -> None:
    """Record the options of a command, and what they state about the model and its data."""
    evaluation.provenance.config = {key: value for key, value in asdict(options).items() if value not in (None, ())}
    state(evaluation, options)


def state(evaluation: Evaluation, options: AttackConfig) -> None:
    """Record what the options state about the model and its data: notes, intended use and licence."""
    evaluation.data.note = "; ".join(filter(None, (evaluation.data.note, options.data_note)))
    evaluation.intended_use, evaluation.license = options.intended_use or "", options.license or ""


def make_engine(
    subject: Subject, plan: Plan, *, journal: Journal | None = None, world: World | None = None, over: Over = never
) -> Engine:
    """Return the engine that runs a plan's attacks on a subject."""
    device, world = device_of(subject.model), world or World()
    precision = plan.precision
    if precision == "auto":
        before = journal.known("precision") if journal else None  # a resumed run keeps the precision that it began with
        with torch.inference_mode(False):
            precision = before or world.gather(faster_precision(subject.source, subject.x))[0]
    precision = resolve_precision(precision, device)
    size = resolve_batch_size(plan.batch_size, subject.x.shape[1:], device)
    return Engine(subject, size, precision, plan.compiled, plan.seed, journal, world, over)


def _record(
    engine: Engine, plan: Plan, outcome: Outcome, checks: list[Check], curve: list[CurvePoint] | None
) -> Evaluation:
    subject, samples = engine.subject, outcome.samples()
    n, data = len(subject.y), subject.data_record
    rule = data.class_map.rule if data.class_map else ""
    evaluation = Evaluation(
        model=subject.model_record,
        data=replace(data, note="; ".join(filter(None, (data.note, rule)))),
        threat=_describe_threat(subject, plan),
        clean=Accuracy.of(int(outcome.correct.sum()), n),
        targeted=_targeted(subject, outcome),
        robust=Accuracy.of(int(outcome.robust.sum()), n, _kind(subject, plan, outcome)),
        attacks=outcome.records,
        checks=checks,
        samples=samples,
        provenance=Provenance(
            command="",
            config={"attacks": [attack.text for attack in plan.attacks], "batch_size": engine.batch_size},
            seed=plan.seed,
            versions=versions(),
            device=describe_device(engine.device),
            commit=commit(),
            started="",
            seconds=0.0,
            precision=engine.precision,
            batch_size=min(engine.world.gather(engine.parts.size)),
        ),
        curve=curve,
        surrogate=subject.surrogate.record if subject.surrogate else None,
        training=subject.training,
        two_classes=tell_apart(engine, outcome, samples, subject.two_labels) if subject.two_labels else None,
        profile=plan.profile,
        not_run=dict(plan.not_run),
        reduced=dict(plan.reduced),
        rejection=under_detector(engine, outcome),
        under_noise=accuracy_under_noise(engine, outcome),
        suites=dict(plan.suites),
        severity=severity_of(samples, plan.tree) if plan.tree else None,
    )
    evaluation.balanced = balanced_of(evaluation)
    evaluation.two_classes = two_classes_of(evaluation, plan.positive)
    evaluation.provenance.service = _describe_service(engine)  # last, because the steps above may query the service
    return evaluation


def _targeted(subject: Subject, outcome: Outcome) -> Targeted | None:
    if (aim := subject.aim) is None:
        return None
    return Targeted(aim.rule, aim.left_out, Accuracy.of(int(outcome.success.sum()), int(outcome.correct.sum())))


def _kind(subject: Subject, plan: Plan, outcome: Outcome) -> str:
    """Return what kind of bound robust accuracy is and by which attacks; failed attacks are named, as they bound nothing."""
    failed = [record.name for record in outcome.records if record.error]
    if len(failed) == len(outcome.records):
        return f"clean accuracy: every attack failed: {', '.join(failed)}"
    aim = f"; only the target counts, {subject.aim.rule}" if subject.aim else ""
    return f"upper bound: {plan.kind}{aim}" + (f"; failed: {', '.join(failed)}" if failed else "")


def _task(engine: Engine, plan: Plan) -> dict[str, Any]:
    """Return everything that must be the same for an evaluation to be resumed."""
    model, data, surrogate = engine.subject.model_record, engine.subject.data_record, engine.subject.surrogate
    service = remote_of(engine.subject.model)
    sampled = [attack.sample for attack in plan.attacks]
    return ({"twin": service.twin_name} if service else {}) | ({"sampled": sampled} if any(sampled) else {}) | {
        "model": [model.name, model.sha256], "data": data.sha256,
        # None if unused, so that journals of versions without these options still match.
        "mask": engine.threat.mask.sha256 if engine.threat.mask else None, "8 bits": engine.threat.eight_bit or None,
        "outputs": data.class_map.outputs if data.class_map else [], "threat": str(engine.threat),
        "attacks": [attack.text for attack in plan.attacks], "each alone": plan.alone, "batch size": engine.batch_size,
        "precision": engine.precision, "seed": plan.seed, "compiled": plan.compiled, "radii": list(plan.eps_grid),
        "versions": versions(), "target": _target(engine), "detector": _detector(engine),
        "surrogate": [surrogate.record.name, surrogate.record.sha256] if surrogate else [],
    }  # fmt: skip


def _target(engine: Engine) -> list[Any] | None:
    aim = engine.subject.aim
    return [aim.rule, *aim.target.tolist()] if aim else None


def _detector(engine: Engine) -> list[Any] | None:
    detector = engine.subject.detector
    return [detector.name, detector.fpr, detector.threshold, detector.spread] if detector else None


def _describe_service(engine: Engine) -> Service | None:
    """Return the record of the service that the model runs in, or None."""
    net = remote_of(engine.subject.model)
    if net is None:
        return None
    return Service(net.url, net.version, sum(engine.world.gather(_queries(engine.subject))), net.twin_name)


def _queries(subject: Subject) -> int:
    """Return how many images the service has answered for this subject."""
    net = remote_of(subject.model)
    return net.queries - subject.asked_before if net else 0


def _describe_threat(subject: Subject, plan: Plan) -> Threat:
    ball, mask = subject.threat, subject.threat.mask
    threat = Threat(ball.norm, ball.eps, ball.eps_text, eight_bit=ball.eight_bit)
    if mask is not None:
        threat.mask = Mask(mask.name.removeprefix("mask "), mask.sha256, mask.pixels, mask.allowed.numel())
    if subject.aim is not None:
        threat.goal = f"targeted: {subject.aim.rule}; no other wrong class counts"
    if subject.detector is not None:
        threat.goal = f"untargeted: any wrong label that is accepted by the detector {subject.detector.name}"
    if subject.surrogate is not None:
        name = subject.surrogate.record.name
        threat.knowledge = f"transfer: examples are crafted on {name}; the evaluated model only gives labels"
    elif not any(attack.traits.gradients for attack in plan.attacks):
        threat.knowledge = "black box: the attacks only see the model's outputs"
    elif service := remote_of(subject.model):
        threat.knowledge = f"white box by a twin: gradients come from {service.twin_name}, predictions from the service"
    return threat
