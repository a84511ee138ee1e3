"""What an evaluation must know of an attack before it runs it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Traits:
    """The defaults describe an attack such as PGD: gradients of each image by itself, inside the ball."""

    gradients: bool = True  # needs the gradient of the model, not its outputs alone
    minimum_norm: bool = False  # looks for the nearest example, at whatever distance; the ball only judges it
    unrestricted: bool = False  # leaves every small ball: only the whole box, linf:1, can judge it
    soft_labels: bool = False  # takes probabilities N,K for labels
    training_only: bool = False  # leaves the ball on purpose: its images train a model and never judge one
    keeps_label: bool = False  # moves the explanation and never the label: it says nothing of accuracy
    universal: bool = False  # makes one perturbation for all images, so it must meet them all at once


def traits(**declared: bool) -> Callable[[Callable], Callable]:
    """Decorates an attack with its Traits, where they are not the defaults."""

    def declare(attack: Callable) -> Callable:
        attack.traits = Traits(**declared)  # type: ignore[attr-defined]
        return attack

    return declare


def traits_of(attack: Callable[..., Any]) -> Traits:
    """The Traits of an attack, also of one with options bound."""
    while isinstance(attack, partial):
        attack = attack.func
    return getattr(attack, "traits", Traits())


def takes(attack: Callable[..., Any], option: str) -> bool:
    """Whether an attack has a keyword of this name."""
    return option in inspect.signature(attack).parameters
