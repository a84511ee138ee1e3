"""The plan of an evaluation: which attacks, checks, radii and measures are run on a subject."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from robustcls.core.class_tree import ClassTree
from robustcls.core.errors import InputError
from robustcls.core.measures import measures
from robustcls.core.options import parse_batch_size
from robustcls.core.traits import call
from robustcls.evaluation.attacks import (
    AttackLike,
    NamedAttack,
    as_attack,
    as_attacks,
    check_attacks,
    in_list,
    names_suite,
    sampled,
    suite_attacks,
    suite_versions,
)
from robustcls.evaluation.checks import CheckFunction, thorough_checks
from robustcls.evaluation.config import METHODS, AttackConfig, ReportConfig
from robustcls.evaluation.curves import choose_grid
from robustcls.evaluation.explain import supported_methods
from robustcls.evaluation.profiles import PROFILES
from robustcls.evaluation.subject import Subject
from robustcls.evaluation.suites import DRAWS, NOTHING_AIMS_IN_L0
from robustcls.evaluation.under_noise import average
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.results.balance import find_positive
from robustcls.results.severity import tree_of

JOINT = "apgd_reject"  # attacks the model and its detector jointly


@dataclass
class Plan:
    """What is measured on a subject, already checked to be possible for it."""

    attacks: Sequence[NamedAttack]  # run in order
    kind: str  # the name that robust accuracy is reported under: the suite, or the attacks
    alone: bool = False  # run every attack on every sample, so that attacks can be compared
    eps_grid: Sequence[float] = ()  # radii of the security curve; none: no curve
    checks: Sequence[CheckFunction] = ()  # self-checks besides those that always run
    batch_size: int | str = "auto"
    precision: str = "auto"
    compiled: bool = False
    seed: int = 0
    positive: str | int | None = None  # for two classes: the one whose recall is the sensitivity; by default the second
    tree: ClassTree | None = None  # a tree of the classes, which tells how severe a misclassification is
    measures: Mapping[str, Mapping[str, Any]] | None = None  # by name, each with its options; None: attacks only
    methods: Sequence[str] = ()  # attribution methods of the measures that work on the model
    profile: str = ""  # the profile that chose what is measured
    not_run: dict[str, str] = field(default_factory=dict)  # by key of a part: why the options leave it out
    reduced: dict[str, str] = field(default_factory=dict)  # by key of a part: why it has fewer samples than asked for
    suites: dict[str, int] = field(default_factory=dict)  # the version of each suite whose attacks are run


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
    tree: str | None = None,
) -> Plan:
    """Return the plan for these attacks, or for a suite, by default `fast`.

    A suite for random models replaces the subject's model with the mean of its draws. Raises InputError for what is not
    possible for the subject.

    Args:
        eps_grid: radii of the security curve: `auto`, or a list such as `0,2/255`.
        checks: `all` adds the self-checks that attack; or a list of the checks to add.
        tree: a file with a tree of the classes.
    """
    if subject.aim is not None and subject.detector is not None:
        raise InputError(
            "targeted attacks are not evaluated together with a detector: leave out `target` or `detector`"
        )
    built_in = all(isinstance(one, str) and ":" not in one for one in in_list(attacks or ()))
    if subject.aim is not None and subject.threat.norm == "l0" and built_in:
        raise InputError(NOTHING_AIMS_IN_L0)
    if attacks is None and suite is None and subject.aim is not None:
        suite = "targeted"
    if subject.detector is not None and attacks is None:  # the suite, then an attack on model and detector jointly
        attacks, suite = [suite or "fast", JOINT], None
    chosen, kind = choose_attacks(attacks, suite, subject.threat.norm)
    suites = suite_versions([suite or "fast"] if attacks is None else in_list(attacks))
    if draws := max((DRAWS.get(one, 0) for one in suites), default=0):
        subject.model = average(subject.model, draws)
    if subject.detector is not None and averaged_in(subject.model):
        raise InputError(
            "a detector is not evaluated together with a random model: leave out `detector`, or the suite and wrapper"
        )
    grid = choose_grid(eps_grid, subject.threat, chosen, subject.x.shape[1:])
    if positive is not None:
        find_positive(positive, subject.two_labels, subject.model_record, subject.data_record)
    classes = tree_of(tree, subject.model_record) if tree is not None else None
    check_attacks(chosen, subject, grid)
    if isinstance(checks, str):
        checks = thorough_checks() if checks == "all" else ()
    return Plan(
        chosen, kind, alone, grid, checks, batch_size, precision, compiled, seed, positive, classes, suites=suites
    )


def plan_from(options: AttackConfig, subject: Subject, *, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Return the plan that the options of a command ask for. say: called with what is left out. Raises InputError."""
    attacks, suite = attacks_of(options, subject.threat.norm, detector=subject.detector is not None)
    plan = make_plan(
        subject, attacks, suite,
        alone=options.each_alone,
        eps_grid=options.eps_grid,
        checks=options.checks if isinstance(options, ReportConfig) else "passive",
        batch_size=parse_batch_size(options.batch_size),
        precision=options.precision,
        compiled=options.compile,
        seed=options.seed,
        positive=options.positive,
        tree=options.tree,
    )  # fmt: skip
    return add_measures(plan, subject, options, say=say) if isinstance(options, ReportConfig) else plan


def attacks_of(options: AttackConfig, norm: str, *, detector: bool) -> tuple[tuple[str, ...] | None, str | None]:
    """Return the attacks, or None, and the suite of the options.

    Attacks that come from a profile, not from the user, are replaced in l0 and extended for a detector.
    """
    attacks = options.attack or None
    if attacks and attacks == PROFILES.get(getattr(options, "profile", ""), {}).get("attack"):
        if norm == "l0":
            return None, "fast"
        attacks = (*attacks, JOINT) if detector else attacks
    return attacks, options.suite


def add_measures(
    plan: Plan, subject: Subject, config: ReportConfig, *, say: Callable[[str], None] = lambda text: None
) -> Plan:
    """Return the plan with the measures of a report added. Raises InputError for what is not possible for the subject."""
    drawn = any(getattr(config, one.count) for one in measures() if one.draws_maps)
    wanted = (config.method or METHODS) if drawn else ()
    by_user = config.method != PROFILES.get(config.profile, {}).get("method", ())  # not by the profile
    methods = supported_methods(subject, wanted, strict=by_user, say=say)
    chosen = {one.name: {name: getattr(config, name) for name in one.option_fields()} for one in measures()}
    for one in measures():
        if hasattr(one.load(), "check") and one.count_in(chosen[one.name]) != 0:
            call(one.load().check, subject, **chosen[one.name])
    whose = f" (--profile {config.profile})" if config.profile else ""
    left_out = {
        one.key: f"left out by --{one.count.replace('_', '-')} 0{whose}"
        for one in measures()
        if one.count_in(chosen[one.name]) == 0
    }
    if config.checks == "passive":
        left_out["diagnostics"] = f"left out by --checks passive{whose}"
    if not config.eps_grid:
        left_out["curves"] = "accuracy was measured at one eps; give several with --eps-grid auto"
    elif not plan.eps_grid:
        left_out["curves"] = "an attack that leaves every small ball has no curve over radii"
    return replace(plan, measures=chosen, methods=methods, profile=config.profile, not_run=left_out)


def choose_attacks(
    attacks: AttackLike | Sequence[AttackLike] | None, suite: str | None, norm: str
) -> tuple[list[NamedAttack], str]:
    """Return the named attacks, or those of the suite for the norm, and the name that robust accuracy is reported under.

    A suite among the attacks is replaced by its own attacks, and appears in the name as a suite.
    """
    if attacks is not None and suite is not None:
        raise InputError("both `attacks` and `suite` were given: give one, or the suite as one of `attacks`")
    if attacks is None:
        return sampled(as_attacks(suite_attacks(suite or "fast", norm)), suite or "fast"), suite or "fast"
    chosen: list[NamedAttack] = []
    names: list[str] = []
    for one in in_list(attacks):
        if names_suite(one):
            chosen += sampled(as_attacks(suite_attacks(str(one).strip(), norm)), str(one).strip())
            names.append(str(one).strip())
        else:
            chosen.append(as_attack(one))
            names.append(chosen[-1].text)
    return chosen, ", ".join(names)
