"""The attacks of an evaluation: specs such as `pgd(steps=20)`, and functions, as one thing."""

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
    """An attack with the options that were given to it."""

    source: plugins.AnyPlugin  # as the user gave it
    name: str  # the plug-in's, or the function's
    given: Mapping[str, Any]  # the options that were given
    options: Mapping[str, Any]  # every option with its value
    function: Callable[..., Tensor]  # (model, x, y, threat, *, generator, ...) -> x_adv, with `given` bound
    sample: int = 0  # as the last of a cascade it first meets so many of the samples that are left; 0: all of them

    @property
    def is_own(self) -> bool:
        """Whether it is code of the user's."""
        return plugins.is_own("attack", self.source)

    @property
    def text(self) -> str:
        """As the user wrote it."""
        return self.source if isinstance(self.source, str) else str(self)

    @property
    def traits(self) -> Traits:
        return traits_of(self.function)

    @property
    def continues(self) -> bool:
        """Whether it begins in a cascade with the strongest attempts of the attacks before, as its options ask for it."""
        return self.options.get("within", 1) < 1 or self.options.get("look", 0) > 0

    def takes(self, keyword: str) -> bool:
        return takes(self.function, keyword)

    def but(self, **options: Any) -> "NamedAttack":
        """The same attack with other values of these options."""
        return as_attack(plugins.with_options("attack", self.source, **options))

    def bounded(self, bounds: Mapping[str, int], bound: Callable[[int, int], int]) -> "NamedAttack":
        """The same with each whole number among these options brought to its bound, by min or by max."""
        now = self.options
        return self.but(**{key: bound(now[key], limit) for key, limit in bounds.items() if type(now.get(key)) is int})

    def __str__(self) -> str:
        return str(plugins.Spec(self.name, (), tuple(self.given.items())))


AttackLike = plugins.AnyPlugin | NamedAttack


def as_attack(given: AttackLike) -> NamedAttack:
    """A spec, or a function `(model, x, y, threat, *, ...)`, also a functools.partial of one, as an attack.

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
    """One attack, or several, as a list. Raises InputError."""
    return [as_attack(one) for one in in_list(given)]


def in_list(given: AttackLike | Sequence[AttackLike]) -> list[AttackLike]:
    """One attack, or several, in a list, as they were given."""
    if isinstance(given, (str, plugins.Spec, NamedAttack)) or callable(given):
        return [given]
    return list(given)


def name_attacks(attacks: Sequence[AttackLike]) -> list[str]:
    """Their names; where two share one, their specs, numbered where even these are the same."""
    every = as_attacks(attacks)
    names = [one.name for one in every]
    names = [name if names.count(name) == 1 else str(one) for name, one in zip(names, every, strict=True)]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def names_suite(given: object) -> bool:
    """Whether it names a suite, with options or without: `fast`, `fast(version=1)`."""
    return isinstance(given, str) and given.strip().partition("(")[0] in plugins.names("suite")


def suite_versions(given: Sequence[object]) -> dict[str, int]:
    """The version of each suite among them, by its name."""
    suites = [str(one).strip() for one in given if names_suite(one)]
    return {one.partition("(")[0]: plugins.resolved("suite", one).get("version", 1) for one in suites}


def suite_attacks(suite: str, norm: str) -> list[str]:
    """The attack specs of a suite under a norm. Raises InputError for an unknown one."""
    return plugins.load("suite", suite)(norm)


def sampled(attacks: Sequence[NamedAttack], suite: str) -> list[NamedAttack]:
    """The attacks of a suite, of which the last may meet a sample of those left."""
    count = SAMPLED.get(suite.partition("(")[0], 0)
    return [*attacks[:-1], replace(attacks[-1], sample=count)] if count else list(attacks)


def check_attacks(attacks: Sequence[NamedAttack], subject: Subject, eps_grid: Sequence[float] = ()) -> None:
    """Raises InputError for an attack that cannot be run, before hours of work for the others."""
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
                f'{attack.text} leaves the ball on purpose, to train on: take `attacks="fgsm"` or `attacks="pgd"`'
            )
        if traits.keeps_label:
            raise InputError(
                f"{attack.text} keeps the label, so it says nothing of accuracy: "
                f"give it to `robustcls explain --attack {quote(attack.text)}`"
            )
        if not takes_target(attack.function) and subject.aim is not None:
            raise InputError(f"{cannot_aim(attack.text)}, or `suite=targeted`")
        if attack.takes("detector") and subject.detector is None:
            raise InputError(f"{attack.text} attacks a model with a detector: give `detector`, or take apgd_ce")
        if traits.gradients and not getattr(subject.source, "differentiable", True):
            why = getattr(getattr(subject.source, "net", None), "no_gradient", "")
            raise InputError(
                f"{attack.text} needs gradients, which this model does not give{f' ({why})' if why else ''}: "
                'take `attacks="square"` or `attacks="noise"`, or craft on another model with `transfer_from`'
            )
        if traits.unrestricted:
            threat.check_whole_box(attack.text)
        if traits.unrestricted and any(eps < 1 for eps in eps_grid):
            raise InputError(f"{attack.text} leaves every small ball: it has no curve over radii: leave out `eps_grid`")
        if not attack.is_own:
            _check_options(attack, subject)


class _Unasked(nn.Module):
    """Stands in for a model that is not to be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not asked")


def _check_options(attack: NamedAttack, subject: Subject) -> None:
    """Raises InputError for what the attack itself refuses, a norm or the value of an option, as it does before it asks the
    model."""
    x, y, index = subject.x[:1], subject.source_y[:1], subject.index[:1]
    known = {"generator": SampleGenerator.of(index, 0), "others": x, "detector": subject.detector}
    given = {name: value for name, value in known.items() if attack.takes(name)}
    if subject.aim is not None:
        given["target"] = subject.aim.target[:1]
    try:
        attack.function(_Unasked(), x, y, subject.threat, **given)
    except InputError:
        raise
    except Exception:  # as a rule that of the model; any other is recorded when the attack runs
        pass
