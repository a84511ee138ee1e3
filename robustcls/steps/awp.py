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
    """One update by the gradient at the weights that a step uphill has made worse (Wu et al. 2020, arXiv:2004.05884).

    gamma: length of that step, relative to each layer's weights. warmup: share of the run that is trained without it.
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
    """The attack, made once for each images tensor: worse weights meet the examples of the ones before."""
    made: dict[tuple, Tensor] = {}

    def attack_once(model: nn.Module, x: Tensor, y: Tensor, **options: Callable) -> Tensor:
        key = (x.data_ptr(), options.get("loss"))  # a part of a batch is a view of its own each time
        if key not in made:
            made[key] = attack(model, x, y, **options)
        return made[key]

    return attack_once


@contextmanager
def ascended(model: nn.Module, gamma: float) -> Iterator[None]:
    """Weights of two dimensions and more, moved along their gradients by gamma times their norm; then as before."""
    moved = [p for p in model.parameters() if p.grad is not None and p.ndim > 1]
    before = [p.detach().clone() for p in moved]
    with torch.no_grad():
        for p in moved:
            assert p.grad is not None
            # A gradient that overflowed in fp16 moves nothing; the scaler skips that update anyway.
            p.add_((gamma * p.norm() / (p.grad.norm() + 1e-12) * p.grad).nan_to_num(0, 0, 0))
    try:
        yield
    finally:
        with torch.no_grad():
            for p, kept in zip(moved, before, strict=True):
                p.copy_(kept)
