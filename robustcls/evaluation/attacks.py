"""The attacks of an evaluation: one type for specs such as `pgd(steps=20)` and for functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from torch import Tensor, nn

from robustcls.attacks._targets import cannot_aim
from robustcls.core import plugins
from robustcls.core.draws import SampleGenerator
from robustcls.core.errors import InputError
from robustcls.core.traits import Traits, takes, takes_target, traits_of
from robustcls.evaluation.subject import Subject
from robustcls.evaluation.suites import SAMPLED


@dataclass(frozen=True)
class NamedAttack:
    """An attack with its options."""

    source: plugins.AnyPlugin  # as the user gave it
    name: str  # of the plug-in or function
    given: Mapping[str, Any]  # the options that the user gave
    options: Mapping[str, Any]  # every option with its value
    function: Callable[..., Tensor]  # (model, x, y, threat, *, generator, ...) -> x_adv, with `given` bound
    sample: int = 0  # as the last of a cascade, first run on this many of the samples still robust; 0: on all of them

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own code."""
        return plugins.is_own("attack", self.source)

    @property
    def text(self) -> str:
        """The attack as the user wrote it."""
        return self.source if isinstance(self.source, str) else str(self)

    @property
    def traits(self) -> Traits:
        return traits_of(self.function)

    @property
    def continues(self) -> bool:
        """Whether its options make it begin from the strongest attempts of the earlier attacks of a cascade."""
        return self.options.get("within", 1) < 1 or self.options.get("look", 0) > 0

    def takes(self, keyword: str) -> bool:
        return takes(self.function, keyword)

    def but(self, **options: Any) -> "NamedAttack":
        """Return the attack with other values of these options."""
        return as_attack(plugins.with_options("attack", self.source, **options))

    def bounded(self, bounds: Mapping[str, int], bound: Callable[[int, int], int]) -> "NamedAttack":
        """Return the attack with each integer among these options limited to its bound, by `min` or `max`."""
        now = self.options
        return self.but(**{key: bound(now[key], limit) for key, limit in bounds.items() if type(now.get(key)) is int})

    def __str__(self) -> str:
        return str(plugins.Spec(self.name, (), tuple(self.given.items())))


AttackLike = plugins.AnyPlugin | NamedAttack


def as_attack(given: AttackLike) -> NamedAttack:
    """Return a spec, a function `(model, x, y, threat, *, ...)` or a functools.partial of one as a NamedAttack.

    Raises InputError for an unknown plug-in or option.
    """
    if isinstance(given, NamedAttack):
        return given
    if not isinstance(given, (str, plugins.Spec)) and not callable(given):
        raise InputError(f"attack {given!r:.60} is neither a spec, such as 'pgd(steps=20)', nor a function")
    spec = plugins.parse("attack", given)
    function, options = plugins.load("attack", given), plugins.resolved("attack", given)
    return NamedAttack(given, spec.name, dict(spec.options), options, function)


def as_attacks(given: AttackLike | Sequence[AttackLike]) -> list[NamedAttack]:
    """Return one or several attacks as a list of NamedAttack. Raises InputError."""
    return [as_attack(one) for one in in_list(given)]


def in_list(given: AttackLike | Sequence[AttackLike]) -> list[AttackLike]:
    """Return one or several attacks in a list, as they were given."""
    if isinstance(given, (str, plugins.Spec, NamedAttack)) or callable(given):
        return [given]
    return list(given)


def name_attacks(attacks: Sequence[AttackLike]) -> list[str]:
    """Return the names of the attacks. Attacks with the same name get their specs, numbered if these are equal, too."""
    every = as_attacks(attacks)
    names = [one.name for one in every]
    names = [name if names.count(name) == 1 else str(one) for name, one in zip(names, every, strict=True)]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def names_suite(given: object) -> bool:
    """Whether this names a suite, with or without options: `fast`, `fast(version=1)`."""
    return isinstance(given, str) and given.strip().partition("(")[0] in plugins.names("suite")


def suite_versions(given: Sequence[object]) -> dict[str, int]:
    """Return the version of each suite among the attacks, by the suite's name."""
    suites = [str(one).strip() for one in given if names_suite(one)]
    return {one.partition("(")[0]: plugins.resolved("suite", one).get("version", 1) for one in suites}


def suite_attacks(suite: str, norm: str) -> list[str]:
    """Return the attack specs of a suite for a norm. Raises InputError for an unknown suite."""
    return plugins.load("suite", suite)(norm)


def sampled(attacks: Sequence[NamedAttack], suite: str) -> list[NamedAttack]:
    """Return the attacks of a suite, the last of which may run on a random sample of those still robust."""
    count = SAMPLED.get(suite.partition("(")[0], 0)
    return [*attacks[:-1], replace(attacks[-1], sample=count)] if count else list(attacks)


def check_attacks(attacks: Sequence[NamedAttack], subject: Subject, eps_grid: Sequence[float] = ()) -> None:
    """Raise InputError for an attack that cannot be run, before the others take hours."""
    if not attacks:
        raise InputError("no attack was named: give `attacks` or `suite`")
    threat = subject.threat
    for attack in attacks:
        threat.check_options(attack.text, attack.options)
        traits = attack.traits
        if not attack.is_own:
            threat.check_known(attack.text, traits)
        if traits.training_only:
            raise InputError(
                f'{attack.text} leaves the ball on purpose, for training: use `attacks="fgsm"` or `attacks="pgd"`'
            )
        if traits.keeps_label:
            raise InputError(
                f"{attack.text} keeps the label, so it says nothing about accuracy: "
                f"give it to `robustcls explain --attack {quote(attack.text)}`"
            )
        if not takes_target(attack.function) and subject.aim is not None:
            raise InputError(f"{cannot_aim(attack.text)}, or `suite=targeted`")
        if attack.takes("detector") and subject.detector is None:
            raise InputError(f"{attack.text} attacks a model with a detector: give `detector`, or use apgd_ce")
        if traits.gradients and not getattr(subject.source, "differentiable", True):
            why = getattr(getattr(subject.source, "net", None), "no_gradient", "")
            raise InputError(
                f"{attack.text} needs gradients, which this model does not give{f' ({why})' if why else ''}: "
                'use `attacks="square"` or `attacks="noise"`, or craft on another model with `transfer_from`'
            )
        if traits.unrestricted:
            threat.check_whole_box(attack.text)
        if traits.unrestricted and any(eps < 1 for eps in eps_grid):
            raise InputError(f"{attack.text} leaves every small ball: it has no curve over radii: leave out `eps_grid`")
        if not attack.is_own:
            _check_options(attack, subject)


class _Unasked(nn.Module):
    """Stands in for the model where only the attack's own checks are wanted; calling it raises an error."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not asked")


def _check_options(attack: NamedAttack, subject: Subject) -> None:
    """Raise the InputError with which the attack itself refuses a norm or the value of an option, before it calls a model."""
    x, y, index = subject.x[:1], subject.source_y[:1], subject.index[:1]
    known = {"generator": SampleGenerator.of(index, 0), "others": x, "detector": subject.detector}
    given = {name: value for name, value in known.items() if attack.takes(name)}
    if subject.aim is not None:
        given["target"] = subject.aim.target[:1]
    try:
        attack.function(_Unasked(), x, y, subject.threat, **given)
    except InputError:
        raise
    except Exception:  # usually that of `_Unasked`; any other error is recorded when the attack runs
        pass
