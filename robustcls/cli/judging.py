"""An evaluation of a subject, as attack and report make it."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from robustcls.cli.subject import Subject, command_line, fit, renumber
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size, parse_numbers
from robustcls.evaluation.attack_checks import AttackCheck
from robustcls.evaluation.cascade import Progress
from robustcls.evaluation.config import AttackConfig
from robustcls.evaluation.curve import choose_grid
from robustcls.evaluation.engine import Over, check_attacks, never
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.judge import Judged, judge, suite_attacks
from robustcls.models.loading import build_model, read_model
from robustcls.results.balance import find_positive, two_labels
from robustcls.results.records import Model
from robustcls.runtime.world import World


def chosen_attacks(config: AttackConfig, norm: str) -> list[str]:
    """The attack specs that the options name, of a suite those for the norm. Raises InputError."""
    if config.attack and config.suite:
        raise InputError("both --attack and --suite were given: give one")
    return list(config.attack) or suite_attacks(config.suite or "fast", norm)


@dataclasses.dataclass
class Task:
    """What a subject is judged by, found good before anything is computed."""

    attacks: list[str]
    eps_grid: Sequence[float]
    surrogate: nn.Module | None
    surrogate_record: Model | None
    surrogate_labels: Tensor | None  # of the samples, as the surrogate numbers its outputs


def set_task(subject: Subject, config: AttackConfig) -> Task:
    """Raises InputError for what the options ask and the model, or the threat, does not allow."""
    surrogate = record = labels = None
    if config.transfer_from:
        loaded = build_model(
            read_model(config.transfer_from),
            arch=config.arch,
            classes=subject.unmapped.classes,
            input_size=tuple(subject.images.pixels.shape[1:]),
            mean=parse_numbers(config.mean, "mean"),
            std=parse_numbers(config.std, "std"),
        )
        mapped, record, said = fit(loaded, subject.unmapped, config, shared=True)
        surrogate, labels = loaded.model, renumber(subject.unmapped, mapped, record.classes).labels
        subject.notes += said
    attacks = chosen_attacks(config, subject.threat.norm)
    task = Task(attacks, choose_grid(config.eps_grid, subject.threat, attacks), surrogate, record, labels)
    if config.positive is not None:
        find_positive(config.positive, two_labels(subject.model, subject.data), subject.model, subject.data)
    check_attacks(task.attacks, subject.loaded.model, task.surrogate, subject.threat, task.eps_grid)
    return task


def judge_subject(
    subject: Subject,
    config: AttackConfig,
    task: Task,
    progress: Progress,
    *,
    checks: Sequence[AttackCheck] = (),
    journal: Journal | None = None,
    world: World | None = None,
    over: Over = never,
) -> Judged:
    """Runs the attacks of the task, and the further self-checks given, until `over` gives a reason. Raises InputError."""
    x, y = subject.images.batch()
    rule = subject.data.class_map.rule if subject.data.class_map else ""
    notes = (subject.data.note, rule, config.data_note)
    judged = judge(
        subject.loaded.model,
        x,
        y,
        subject.threat,
        task.attacks,
        kind=", ".join(config.attack) or config.suite or "fast",
        model_record=subject.model,
        data_record=dataclasses.replace(subject.data, note="; ".join(filter(None, notes))),
        index=subject.images.index,
        batch_size=parse_batch_size(config.batch_size),
        precision=config.precision,
        compiled=config.compile,
        alone=config.each_alone,
        seed=config.seed,
        eps_grid=task.eps_grid,
        checks=checks,
        surrogate=task.surrogate,
        surrogate_record=task.surrogate_record,
        surrogate_labels=task.surrogate_labels,
        journal=journal,
        world=world,
        command=command_line(),
        config={name: value for name, value in dataclasses.asdict(config).items() if value not in (None, ())},
        progress=progress,
        positive=config.positive,
        over=over,
    )
    for sample, file in zip(judged.evaluation.samples, subject.images.files or (), strict=False):
        sample.file = file
    judged.evaluation.training = subject.training
    evaluation = judged.evaluation
    evaluation.intended_use, evaluation.license = config.intended_use or "", config.license or ""
    return judged
