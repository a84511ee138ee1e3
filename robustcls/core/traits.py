"""What must be known of a plug-in before it runs: declared beside it, never guessed from its name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Traits:
    """The defaults describe an attack such as PGD, an objective that attacks, a step that does not, a loss of labels."""

    gradients: bool = True  # needs the gradient of the model, not its outputs alone
    minimum_norm: bool = (
        False  # looks for the nearest example, at whatever distance; the ball only says whether it counts
    )
    l0: bool = False  # knows the norm l0, where there is neither a steepest direction nor a random point
    mask: bool = (
        False  # changes only what `threat.project`, `random_start` and `masked` let it, so that it keeps to a mask
    )
    unrestricted: bool = False  # leaves every small ball: it counts only in the whole box, linf:1
    soft_labels: bool = False  # takes probabilities N,K for labels
    training_only: bool = False  # leaves the ball, or [0, 1], on purpose: its images are for training alone
    keeps_label: bool = False  # moves the explanation and never the label: it says nothing of accuracy
    universal: bool = False  # makes one perturbation for all images, so it takes them all at once
    attacks: bool = True  # an objective: asks for adversarial images
    unlabelled: bool = False  # an objective: learns from images without a label, too
    makes_examples: bool = False  # a step: makes the adversarial images itself, so that there is no inner attack
    diverges: str = ""  # an objective: what helps, beside what always does, where its loss is no finite number any more
    reference: bool = False  # a loss: compares with the logits N,K of a reference, not with labels


def traits(**declared: Any) -> Callable[[Callable], Callable]:
    """Decorates a plug-in, or a loss, with its Traits, where they are not the defaults."""

    def declare(function: Callable) -> Callable:
        function.traits = Traits(**declared)  # type: ignore[attr-defined]
        return function

    return declare


def traits_of(function: Callable[..., Any]) -> Traits:
    """The Traits of a plug-in or a loss, also of one with options bound."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "traits", Traits())


def call(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Calls it with those of the keywords that it has."""
    parameters = inspect.signature(function).parameters
    every = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return function(*args, **{name: value for name, value in keywords.items() if every or name in parameters})


def takes_target(attack: Callable[..., Any]) -> bool:
    """Whether an attack can aim at classes N, by a keyword `target` that is no option of its spec, such as that of `patch`."""
    parameter = inspect.signature(attack).parameters.get("target")
    return parameter is not None and (parameter.annotation is parameter.empty or "Tensor" in str(parameter.annotation))


def takes(attack: Callable[..., Any], option: str) -> bool:
    """Whether an attack has a keyword of this name."""
    return option in inspect.signature(attack).parameters
