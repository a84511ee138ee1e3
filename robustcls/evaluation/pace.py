"""Estimate how long the parts of a report take, from the measured time of a pass.

Seconds are wall time. Attacks are estimated for a sample that withstands them; most samples break sooner.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attribution import explain
from robustcls.attribution._batches import images_per_pass
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.measures import Measure
from robustcls.evaluation.attacks import NamedAttack
from robustcls.runtime.fused import Counted
from robustcls.runtime.search import make_search_model

Clock = Callable[[], float]

TIMED = 8  # images in the batch whose passes are timed
COUNTED = ("steps", "queries", "restarts", "targets", "draws", "evaluations")  # options that multiply passes
# Self-checks without an attack: largest number of samples, and forward and gradient passes for each.
CHECKED = (32, 6, 6)
CHECKS, ALL_CHECKS, CURVE = 0.15, 1.0, 2.0  # cost of self-checks and of a security curve, relative to the attacks


@dataclass
class Pace:
    """Measured speed of a model on this machine, in seconds per image."""

    forward: float
    gradient: float  # a forward and backward pass; for a model without gradients the same as `forward`
    maps: dict[str, float] = field(default_factory=dict)  # one attribution map, by method
    more: dict[str, float] = field(default_factory=dict)  # what measures time themselves, by the measure's name

    def of_one_step(self, attacks: Sequence[NamedAttack]) -> float:
        """Return the least seconds per sample: a clean pass and one step of each attack, as for the weakest models."""
        return self.forward + sum(self.gradient if one.traits.gradients else self.forward for one in attacks)

    def of_checks(self, count: int) -> float:
        """Return the seconds of the self-checks without an attack, after attacks on `count` samples."""
        samples, forwards, gradients = CHECKED
        return min(count, samples) * (forwards * self.forward + gradients * self.gradient)

    def of_attacks(self, attacks: Sequence[NamedAttack], *, curve: bool, checks: bool) -> float:
        """Return the seconds per sample that withstands the attacks, including self-checks and, if asked for, a curve."""
        each = (passes_of(one) * (self.gradient if one.traits.gradients else self.forward) for one in attacks)
        return sum(each) * (1 + (CURVE if curve else 0) + (ALL_CHECKS if checks else CHECKS))


def passes_of(attack: NamedAttack) -> int:
    """Return the passes of an attack per image that withstands it: steps times restarts times targets, plus one at the end."""
    count = 1
    for name, value in attack.options.items():
        if name in COUNTED and type(value) is int and value > 0:
            count *= value
    return count + 1


def measure_pace(
    model: nn.Module,
    x: Tensor,
    methods: Sequence[str] = (),
    *,
    measures: Sequence[Measure] = (),
    clock: Clock = time.perf_counter,
) -> Pace:
    """Time a batch of x (N,C,H,W on the CPU) forward and backward, one map per method, and what the measures time themselves.

    The model is not changed. Whatever fails gets 0 seconds; the error is reported when that part is run.
    """
    device = device_of(model)
    batch = x[: min(TIMED, images_per_pass(x))].float().to(device)

    def timed(work: Callable[[], Any], images: int = 1) -> float:
        try:
            began = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return (clock() - began) / images
        except (InputError, RuntimeError):
            return 0.0

    with torch.inference_mode(False), frozen(model):
        search = make_search_model(model, "fp32", batch[:2])  # the model that attacks run on; this also warms up
        plain = Counted(model)
        with torch.no_grad():
            plain(batch)
            forward = timed(lambda: plain(batch), len(batch))
        gradient = forward
        if getattr(model, "differentiable", True):
            image = batch.clone().requires_grad_()
            gradient = timed(lambda: torch.autograd.grad(search(image).sum(), image), len(batch)) or forward
    maps = {
        method: timed(partial(explain, model, x[:1].float(), method=method, keep_nonfinite=True)) for method in methods
    }
    image = x[:1].float().cpu()
    more = {one.name: one.load().time_more(image, timed) for one in measures if hasattr(one.load(), "time_more")}
    return Pace(forward, gradient, maps, more)
