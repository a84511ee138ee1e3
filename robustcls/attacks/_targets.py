"""The class that a targeted attack shall make the model predict, for each sample."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from robustcls.core.draws import Draws
from robustcls.core.errors import InputError, unknown

RULES = ("random", "least_likely", "second")


def choose_targets(
    target: int | str | Tensor | Sequence[int], logits: Tensor, y: Tensor, generator: Generator | None = None
) -> Tensor:
    """N classes: those given, or by rule one other than the label.

    Args:
        target: a class for all samples, one per sample, or a rule: `random` draws among all other classes, `least_likely`
            takes the one with the smallest logit, `second` the runner-up, with the largest.
        logits: N,K of the clean images.
        y: labels N, on the same device.

    Raises:
        InputError: for an unknown rule, classes that the model does not have, or too few of them.
    """
    count = logits.shape[1]
    if isinstance(target, str):
        if target not in RULES:
            raise unknown("target", target, RULES)
        if target == "random":
            drawn = Draws(logits.new_zeros(len(y), 1), generator).uniform().mul_(count - 1).long().clamp_max_(count - 2)
            return drawn + (drawn >= y)
        last = -torch.inf if target == "second" else torch.inf
        others = logits.nan_to_num(nan=last).scatter(1, y[:, None], last)
        return others.argmax(1) if target == "second" else others.argmin(1)
    chosen = torch.as_tensor(target, device=y.device)
    chosen = chosen.expand(len(y)) if chosen.ndim == 0 else chosen
    if chosen.is_floating_point() or chosen.shape != y.shape:
        raise InputError(
            f"target of shape {tuple(chosen.shape)} and {chosen.dtype} for {len(y)} images: give one per image"
        )
    for worst in (int(chosen.min()), int(chosen.max())):
        if not 0 <= worst < count:
            raise InputError(f"target {worst} is none of the model's {count} classes, which count from 0")
    return chosen.long()
