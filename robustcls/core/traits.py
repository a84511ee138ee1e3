"""Properties of a plug-in that must be known before it runs. They are declared with the plug-in, not guessed from its name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Traits:
    """The defaults fit an attack such as PGD, an objective that uses attacks, a step that does not, and a loss on labels."""

    gradients: bool = True  # needs gradients of the model, not only its outputs
    minimum_norm: bool = False  # searches for the nearest example at any distance; the ball only judges it
    l0: bool = False  # supports the norm l0, which has no steepest direction
    mask: bool = False  # respects a mask: changes images only by `threat.project`, `random_start`, `masked`
    unrestricted: bool = False  # leaves every small ball, so it is evaluated only in the whole box, linf:1
    soft_labels: bool = False  # accepts probabilities N,K as labels
    training_only: bool = False  # leaves the ball or [0, 1] on purpose; for training only
    keeps_label: bool = False  # changes the explanation but never the predicted class, so it does not measure accuracy
    universal: bool = False  # computes one perturbation for all images, so it needs all of them at once
    attacks: bool = True  # of an objective: needs adversarial images
    unlabelled: bool = False  # of an objective: also learns from images without labels
    makes_examples: bool = False  # of a step: computes adversarial images itself, in place of the inner attack
    diverges: str = ""  # of an objective: specific advice if its loss is no longer finite
    settles: tuple[
        str, ...
    ] = ()  # of an objective: options that add up to the share of the run in which its loss changes
    reference: bool = False  # of a loss: compares with reference logits N,K instead of labels


def traits(**declared: Any) -> Callable[[Callable], Callable]:
    """Return a decorator that declares the Traits of a plug-in or a loss that differ from the defaults."""

    def declare(function: Callable) -> Callable:
        function.traits = Traits(**declared)  # type: ignore[attr-defined]
        return function

    return declare


def traits_of(function: Callable[..., Any]) -> Traits:
    """Return the Traits of a plug-in or a loss, also if options are bound by functools.partial."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "traits", Traits())


def call(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call the function with those keyword arguments that it accepts."""
    parameters = inspect.signature(function).parameters
    every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return function(*args, **{name: value for name, value in keywords.items() if every or name in parameters})


def takes_target(attack: Callable[..., Any]) -> bool:
    """Whether an attack accepts target classes N as a keyword `target`. Options of specs do not count, as of `patch`."""
    parameter = inspect.signature(attack).parameters.get("target")
    return parameter is not None and (parameter.annotation is parameter.empty or "Tensor" in str(parameter.annotation))


def settled(objective: Callable[..., Any]) -> float:
    """Return the share of the run after which the losses of two epochs can be compared (see Traits.settles)."""
    parameters = inspect.signature(objective).parameters  # with the bound options of a partial as defaults
    return sum(float(parameters[name].default) for name in traits_of(objective).settles)


def takes(attack: Callable[..., Any], option: str) -> bool:
    """Whether an attack has a keyword of this name."""
    return option in inspect.signature(attack).parameters
