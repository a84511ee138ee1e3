"""The attacks of an evaluation: specs such as `pgd(steps=20)`, and functions, as one thing."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import Any

from torch import Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.traits import Traits, takes, traits_of
from robustcls.evaluation.subject import Subject

PASSED = ("generator", "start", "others")  # keywords of an attack that the engine passes, and that are no options


@dataclass(frozen=True)
class NamedAttack:
    """An attack with the options that were given to it."""

    name: str  # the plug-in's, or the function's
    text: str  # as the user wrote it
    given: Mapping[str, Any]  # the options that were given
    options: Mapping[str, Any]  # every option with its value, as a record keeps it
    function: Callable[..., Tensor]  # (model, x, y, threat, *, generator, ...) -> x_adv, with `given` bound
    is_spec: bool

    @property
    def traits(self) -> Traits:
        return traits_of(self.function)

    def takes(self, keyword: str) -> bool:
        return takes(self.function, keyword)

    def but(self, **options: Any) -> "NamedAttack":
        """The same attack with other values of these options."""
        given = {**self.given, **options}
        if self.is_spec:
            return as_attack(plugins.Spec(self.name, (), tuple(given.items())))
        return as_attack(partial(self.function, **options))

    def bounded(self, bounds: Mapping[str, int], bound: Callable[[int, int], int]) -> "NamedAttack":
        """The same with each whole number among these options brought to its bound, by min or by max."""
        now = self.options
        return self.but(**{key: bound(now[key], limit) for key, limit in bounds.items() if type(now.get(key)) is int})

    def __str__(self) -> str:
        return str(plugins.Spec(self.name, (), tuple(self.given.items())))


AttackLike = str | plugins.Spec | Callable[..., Tensor] | NamedAttack


def as_attack(given: AttackLike) -> NamedAttack:
    """A spec, or a function `(model, x, y, threat, *, ...)`, also a functools.partial of one, as an attack.

    Raises InputError for an unknown plug-in or option, and for a function that cannot be called so.
    """
    if isinstance(given, NamedAttack):
        return given
    if isinstance(given, (str, plugins.Spec)):
        spec = plugins.parse("attack", given) if isinstance(given, str) else given
        function, options = plugins.load("attack", spec), plugins.resolved("attack", spec)
        return NamedAttack(spec.name, str(given), dict(spec.options), options, function, is_spec=True)
    if not callable(given):
        raise InputError(f"attack {given!r:.60} is neither a spec, such as 'pgd(steps=20)', nor a function")
    inner: Any = given
    bound: dict[str, Any] = {}
    while isinstance(inner, partial):
        inner, bound = inner.func, {**inner.keywords, **bound}
    name = getattr(inner, "__name__", type(inner).__name__)
    parameters = inspect.signature(given).parameters
    try:
        inspect.signature(given).bind(None, None, None, None)
    except TypeError as error:
        raise InputError(f"attack {name} cannot be called as {name}(model, x, y, threat): {error}") from None
    defaults = {
        option: parameter.default
        for option, parameter in parameters.items()
        if parameter.default is not parameter.empty and option not in PASSED
    }
    options = {option: _plain(value) for option, value in {**defaults, **bound}.items()}
    attack = NamedAttack(name, name, {option: _plain(value) for option, value in bound.items()}, options, given, False)
    return NamedAttack(name, str(attack), attack.given, options, given, is_spec=False)


def as_attacks(given: AttackLike | Iterable[AttackLike]) -> list[NamedAttack]:
    """One attack, or several, as a list. Raises InputError."""
    if isinstance(given, (str, plugins.Spec, NamedAttack)) or callable(given):
        return [as_attack(given)]
    return [as_attack(one) for one in given]


def name_attacks(attacks: Iterable[AttackLike]) -> list[str]:
    """Their names; where two share one, their specs, numbered where even these are the same."""
    every = as_attacks(attacks)
    names = [one.name for one in every]
    names = [name if names.count(name) == 1 else str(one) for name, one in zip(names, every, strict=True)]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def suite_attacks(suite: str, norm: str) -> list[str]:
    """The attack specs of a suite under a norm. Raises InputError for an unknown one."""
    return plugins.load("suite", suite)(norm)


def check_attacks(attacks: Sequence[NamedAttack], subject: Subject, eps_grid: Sequence[float] = ()) -> None:
    """Raises InputError for an attack that cannot be run, before hours of work for the others."""
    if not attacks:
        raise InputError("no attack was named: give --attack or --suite")
    threat = subject.threat
    for attack in attacks:
        threat.check_options(attack.text, attack.options)
        traits = attack.traits
        if traits.training_only:
            raise InputError(
                f"{attack.text} leaves the ball on purpose, to train on: judge with --attack fgsm or --attack pgd"
            )
        if traits.keeps_label:
            raise InputError(
                f"{attack.text} keeps the label, so it says nothing of accuracy: "
                f"give it to `robustcls explain --attack {quote(attack.text)}`"
            )
        if traits.gradients and not getattr(subject.source, "differentiable", True):
            raise InputError(
                f"{attack.text} needs gradients, which this model does not give: "
                "use --attack square or --attack noise, or craft on another model with --transfer-from"
            )
        if traits.unrestricted:
            threat.check_whole_box(attack.text)
        if traits.unrestricted and any(eps < 1 for eps in eps_grid):
            raise InputError(
                f"{attack.text} leaves every small ball: it has no curve over radii: leave --eps-grid away"
            )


def _plain(value: Any) -> Any:
    """A value as JSON keeps it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", None) or repr(value)
