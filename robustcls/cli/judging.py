"""An evaluation of a subject, as attack and report make it."""

import dataclasses

from robustcls.cli.subject import Subject, command_line
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size
from robustcls.evaluation.cascade import Progress
from robustcls.evaluation.config import AttackConfig
from robustcls.evaluation.judge import Judged, judge, suite_attacks


def chosen_attacks(config: AttackConfig) -> list[str]:
    """The attack specs that the options name. Raises InputError."""
    if config.attack and config.suite:
        raise InputError("both --attack and --suite were given: give one")
    return list(config.attack) or suite_attacks(config.suite or "fast")


def judge_subject(subject: Subject, config: AttackConfig, progress: Progress) -> Judged:
    """Runs the attacks that the options name. Raises InputError."""
    attacks = chosen_attacks(config)
    x, y = subject.images.batch()
    judged = judge(
        subject.loaded.model,
        x,
        y,
        subject.threat,
        attacks,
        kind=", ".join(config.attack) or config.suite or "fast",
        model_record=subject.model,
        data_record=subject.data,
        index=subject.images.index,
        batch_size=parse_batch_size(config.batch_size),
        precision=config.precision,
        alone=config.each_alone,
        seed=config.seed,
        command=command_line(),
        config={name: value for name, value in dataclasses.asdict(config).items() if value not in (None, ())},
        progress=progress,
    )
    judged.evaluation.training = subject.training
    return judged
