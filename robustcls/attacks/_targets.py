"""Target classes of targeted attacks."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Generator, Tensor, nn

from robustcls.core.class_map import is_number
from robustcls.core.draws import Draws
from robustcls.core.errors import InputError, unknown
from robustcls.core.logits import unwrapped

Target = int | str | Tensor | Sequence[int]
STREAM = 1  # names the random numbers that choose the targets
RULES = ("random", "least_likely", "second")
EACH = "one per sample"


@dataclass(frozen=True)
class Aim:
    """The targets of targeted attacks: an attack succeeds only if the model predicts the target class."""

    target: Tensor  # N classes
    rule: str  # how they were chosen: one of RULES, the name of a class, or EACH
    left_out: int = 0  # samples left out because their label is the target class

    def take(self, rows: Tensor) -> "Aim":
        """Return the targets of the samples at these positions."""
        return replace(self, target=self.target[rows])


def cannot_aim(attack: str) -> str:
    """Return the error message for an attack that takes no target."""
    return f"{attack} cannot aim at a class: leave out `target`, or use an attack that can, such as pgd or apgd_dlr"


def names_of(model: nn.Module, num_classes: int) -> list[str]:
    """Return the names of the model's classes, or their numbers if it has no names."""
    names = getattr(unwrapped(model), "classes", ())
    fits = isinstance(names, (tuple, list)) and len(names) == num_classes
    return [str(name) for name in (names if fits else range(num_classes))]


def needs_logits(target: Target) -> bool:
    """Whether choosing the target needs the model's logits on the clean images."""
    return isinstance(target, str) and target in ("least_likely", "second")


def choose_targets(
    target: Target,
    y: Tensor,
    num_classes: int,
    generator: Generator,
    *,
    logits: Tensor | None,
    names: Sequence[str] = (),
) -> Tensor:
    """Return N target classes.

    If one class is named for all samples, samples that have this label keep it as their target.

    Args:
        target: the number or name of one class for all samples; one class per sample; or a rule, which never chooses the
            label: `random` draws one of the other classes, `least_likely` takes the class with the smallest logit, and
            `second` the runner-up.
        logits: N,K, on the clean images, for a rule that needs them.
        names: of the classes.

    Raises:
        InputError: if the rule or class is unknown, or a target given per sample is the label of that sample.
    """
    target = _number(target, num_classes, names) if isinstance(target, str) else target
    if isinstance(target, str) and target == "random":
        zeros = torch.zeros(len(y), 1, device=y.device)
        drawn = Draws(zeros, generator).uniform().mul_(num_classes - 1).long().clamp_max_(num_classes - 2)
        return drawn + (drawn >= y)
    if isinstance(target, str):
        assert logits is not None
        last = -torch.inf if target == "second" else torch.inf
        others = logits.nan_to_num(nan=last).scatter(1, y[:, None], last)
        return others.argmax(1) if target == "second" else others.argmin(1)
    try:
        chosen = torch.as_tensor(target, device=y.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"target {target!r:.60} is not a class: give the number or name of one, or one number per image"
        ) from None
    each = chosen.ndim > 0
    chosen = chosen if each else chosen.expand(len(y))
    if chosen.is_floating_point() or chosen.dtype == torch.bool or chosen.shape != y.shape:
        raise InputError(
            f"target of shape {tuple(chosen.shape)} and {chosen.dtype} for {len(y)} images: give one per image"
        )
    for worst in (int(chosen.min()), int(chosen.max())):
        if not 0 <= worst < num_classes:
            raise InputError(f"target {worst} is none of the model's {num_classes} classes, which count from 0")
    same = (chosen == y).nonzero().squeeze(1)
    if each and len(same):
        raise InputError(
            f"target {int(chosen[same[0]])} is the label of image {int(same[0])}"
            f"{f', and so of {len(same) - 1} more' if len(same) > 1 else ''}: give another class, or leave the image out"
        )
    if len(same) == len(y):
        raise InputError(f"target {int(chosen[0])} is the label of every image: give another class")
    return chosen.long()


def rule_of(target: Target, names: Sequence[str] = ()) -> str:
    """Return how the targets were chosen, in words: a rule, the name of a class, or EACH."""
    chosen = _number(target, len(names), names) if isinstance(target, str) else target
    if isinstance(chosen, str):
        return chosen
    try:
        number = operator.index(chosen)  # type: ignore[arg-type]
    except TypeError:
        return EACH
    if getattr(chosen, "ndim", 0):
        return EACH
    return names[number] if number in range(len(names)) else str(number)


def _number(target: str, num_classes: int, names: Sequence[str]) -> int | str:
    """Return a rule unchanged, and a class given by name or number as its number."""
    text = target.strip()
    if text in RULES:
        return text
    if names.count(text) == 1:
        return names.index(text)
    if is_number(text) or (text.startswith("-") and is_number(text[1:])):
        return int(text)
    known = names or list(map(str, range(num_classes)))
    raise unknown("target", target, [*RULES, *(known if len(known) <= 20 else get_close_matches(text, known))])
