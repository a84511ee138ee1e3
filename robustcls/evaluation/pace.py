"""How long the parts of a report take, from measured seconds a pass.

Seconds are wall time. Estimates of attacks are what a sample costs that withstands them: most break sooner.
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

TIMED = 8  # images of the batch whose passes are timed
COUNTED = ("steps", "queries", "restarts", "targets", "draws", "evaluations")  # options that multiply passes
# Of the self-checks without an attack: samples at most, passes forward and with a gradient of each.
CHECKED = (32, 6, 6)
CHECKS, ALL_CHECKS, CURVE = 0.15, 1.0, 2.0  # of the attacks' passes, that self-checks and a security curve take


@dataclass
class Pace:
    """Seconds an image, on this machine."""

    forward: float
    gradient: float  # a pass forward and backward; as long as one forward of a model without gradients
    maps: dict[str, float] = field(default_factory=dict)  # one map, by method
    more: dict[str, float] = field(default_factory=dict)  # what measures time of their own, by name

    def of_one_step(self, attacks: Sequence[NamedAttack]) -> float:
        """Seconds that a sample takes at least: a clean pass, and one step of each attack, as the weakest models do."""
        return self.forward + sum(self.gradient if one.traits.gradients else self.forward for one in attacks)

    def of_checks(self, count: int) -> float:
        """Seconds that the self-checks without an attack take, which follow the attacks on so many samples."""
        samples, forwards, gradients = CHECKED
        return min(count, samples) * (forwards * self.forward + gradients * self.gradient)

    def of_attacks(self, attacks: Sequence[NamedAttack], *, curve: bool, checks: bool) -> float:
        """Seconds that a sample takes which withstands the attacks, with self-checks, and with a curve over radii."""
        each = (passes_of(one) * (self.gradient if one.traits.gradients else self.forward) for one in attacks)
        return sum(each) * (1 + (CURVE if curve else 0) + (ALL_CHECKS if checks else CHECKS))


def passes_of(attack: NamedAttack) -> int:
    """How often an attack passes an image that withstands it: its steps, times restarts and targets; one more at the end."""
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
    """Times a batch of x (N,C,H,W on the CPU) forward and backward, a map by each method, and what the measures time.

    The model is left as it was. What fails is not timed: it says so when its turn comes.
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
        search = make_search_model(model, "fp32", batch[:2])  # as attacks see it; its passes are also the warm-up
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
