"""How a subject is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size
from robustcls.evaluation.attacks import AttackLike, NamedAttack, as_attacks, check_attacks, suite_attacks
from robustcls.evaluation.checks import CheckFunction, thorough_checks
from robustcls.evaluation.config import AttackConfig, ReportConfig
from robustcls.evaluation.curves import choose_grid
from robustcls.evaluation.subject import Subject
from robustcls.results.balance import find_positive


@dataclass
class Plan:
    """What is measured of a subject, found good for it."""

    attacks: Sequence[NamedAttack]  # run in order
    kind: str  # what robust accuracy is called after: the suite, or the attacks
    alone: bool = False  # every attack meets every sample, so that attacks can be compared
    eps_grid: Sequence[float] = ()  # radii of the security curve; none: no curve
    checks: Sequence[CheckFunction] = ()  # self-checks beyond those that are always made
    batch_size: int | str = "auto"
    precision: str = "auto"
    compiled: bool = False
    seed: int = 0
    positive: str | int | None = None  # of two classes, the one that sensitivity is about; the second unless given


def make_plan(
    subject: Subject,
    attacks: AttackLike | Sequence[AttackLike] | None = None,
    suite: str | None = None,
    *,
    alone: bool = False,
    eps_grid: str | Sequence[float] | None = None,
    checks: Literal["passive", "all"] | Sequence[CheckFunction] = "passive",
    batch_size: int | str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    seed: int = 0,
    positive: str | int | None = None,
) -> Plan:
    """The plan of attacks, or of a suite, `fast` unless given. Raises InputError for what the subject does not allow.

    Args:
        eps_grid: radii, `auto`, or a list such as `0,2/255`.
        checks: `all` adds the self-checks that attack; or those to add.
    """
    chosen, kind = choose_attacks(attacks, suite, subject.threat.norm)
    grid = choose_grid(eps_grid, subject.threat, chosen)
    if positive is not None:
        find_positive(positive, subject.two_labels, subject.model_record, subject.data_record)
    check_attacks(chosen, subject, grid)
    if isinstance(checks, str):
        checks = thorough_checks() if checks == "all" else ()
    return Plan(chosen, kind, alone, grid, checks, batch_size, precision, compiled, seed, positive)


def plan_from(options: AttackConfig, subject: Subject) -> Plan:
    """The plan that the options of a command name. Raises InputError."""
    return make_plan(
        subject, options.attack or None, options.suite,
        alone=options.each_alone,
        eps_grid=options.eps_grid,
        checks=options.checks if isinstance(options, ReportConfig) else "passive",
        batch_size=parse_batch_size(options.batch_size),
        precision=options.precision,
        compiled=options.compile,
        seed=options.seed,
        positive=options.positive,
    )  # fmt: skip


def choose_attacks(
    attacks: AttackLike | Sequence[AttackLike] | None, suite: str | None, norm: str
) -> tuple[list[NamedAttack], str]:
    """The attacks that were named, or those of the suite for the norm, and what robust accuracy is called after."""
    if attacks is not None and suite is not None:
        raise InputError("both `attacks` and `suite` were given: give one")
    if attacks is None:
        return as_attacks(suite_attacks(suite or "fast", norm)), suite or "fast"
    chosen = as_attacks(attacks)
    return chosen, ", ".join(attack.text for attack in chosen)
