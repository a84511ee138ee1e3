"""Adversarial weight perturbation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import kept_buffers
from robustcls.core.objective import BoundAttack, Loss, StepContext
from robustcls.steps.once import once


def awp(state: StepContext, x: Tensor, y: Tensor, *, gamma: float = 0.005, warmup: float = 0.1) -> Loss:
    """One update with the gradient at adversarially perturbed weights (Wu et al. 2020, arXiv:2004.05884).

    The weights are perturbed by one gradient-ascent step on the objective, and restored before the update.

    gamma: length of that step, relative to the norm of each layer's weights. warmup: fraction of the run without perturbation.
    """
    if gamma < 0 or not 0 <= warmup <= 1:
        raise InputError(f"awp(gamma={gamma}, warmup={warmup}): give a gamma of 0 or more and a warmup from 0 to 1")
    if state.share_done < warmup:
        return once(state, x, y)
    attack = remembered(state.attack)
    with kept_buffers(state.model, graph_lives_on=False):
        loss = state.gradient(x, y, attack)
    with ascended(state.model, gamma):
        state.gradient(x, y, attack)
    state.update()
    return loss


def remembered(attack: BoundAttack) -> BoundAttack:
    """Return the attack with its results cached by batch, so that perturbed and original weights see the same images."""
    cache: dict[tuple, Tensor] = {}

    def attack_once(model: nn.Module, x: Tensor, y: Tensor, **options: Callable) -> Tensor:
        # The tensor itself cannot be the key, because each pass makes new views of the parts of a batch.
        key = (x.data_ptr(), options.get("loss"))
        if key not in cache:
            cache[key] = attack(model, x, y, **options)
        return cache[key]

    return attack_once


@contextmanager
def ascended(model: nn.Module, gamma: float) -> Iterator[None]:
    """Move weights of two or more dimensions along their gradients by gamma times their norm; restore them at the end."""
    moved = [p for p in model.parameters() if p.grad is not None and p.ndim > 1]
    before = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for p in moved:
            assert p.grad is not None
            # Where a gradient overflowed in fp16, the weights stay as they are; the scaler skips that update anyway.
            p.add_((gamma * p.norm() / (p.grad.norm() + 1e-12) * p.grad).nan_to_num(0, 0, 0))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, kept in zip(moved, before, strict=True):
                p.copy_(kept)
