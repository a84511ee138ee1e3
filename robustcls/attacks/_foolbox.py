"""Run attacks of foolbox (Rauber et al. 2017, arXiv:1707.04131).

Every image that foolbox tries passes through one criterion, which keeps for each sample the nearest adversarial example in the
norm of the threat model. This is the result, at whatever distance; without one the clean image is returned.

foolbox draws random numbers for a batch as a whole, from the global generators of torch, numpy and Python. Here each sample
draws its own, or all samples share the same, so that results do not depend on how the samples are split into batches.
"""

import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import Nearest, find_starts, search
from robustcls.core.draws import Draws, SampleGenerator
from robustcls.core.gradients import finite, frozen
from robustcls.core.losses import ATTACK_TIE, tie_scale
from robustcls.core.threat import ThreatModel


def run_foolbox(
    attack: Any,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    generator: Generator | None,
    *,
    target: Tensor | None = None,
    others: Tensor | None = None,
    shows_all: bool = False,
    untold: bool = False,
) -> Tensor:
    """Return the result of an attack of foolbox, N,C,H,W.

    Args:
        target: N target classes, for an attack that can be targeted.
        others: M,C,H,W, for an attack that needs a starting point: images tried if noise gives none.
        shows_all: the attack passes every image that it tries to the criterion, and returns a black image if it finds nothing.
        untold: like shows_all, but the attack would stop once all samples of the batch are misclassified, so the criterion
            reports no success to it.
    """
    import eagerpy
    from foolbox.models import PyTorchModel

    goal = Goal.of(y, target)
    aims = goal.targeted

    def run(x: Tensor, y: Tensor, generator: Generator | None) -> Tensor:
        result, found = x.clone(), torch.ones_like(y, dtype=torch.bool)
        options: dict[str, Any] = {}
        if others is not None:
            starts = find_starts(model, x, y, threat, generator, others, targeted=aims)
            found = starts.found
            if not found.any():
                return result
            # Pad the batch with copies of the first sample that has a start: in a smaller batch, logits round differently.
            padded = torch.where(found, torch.arange(len(y), device=y.device), found.nonzero()[0])
            x, y, options["starting_points"] = x[padded], y[padded], eagerpy.astensor(starts.x_adv[padded])
        nearest = Nearest(x, y, threat, targeted=aims)
        peer = PyTorchModel(_Raised(model, nearest.goal).eval(), bounds=(0, 1), device=x.device)
        criterion = _criterion(nearest, tells=not untold)
        with _OwnDraws(x, generator) if isinstance(generator, SampleGenerator) else nullcontext():
            if shows_all or untold:
                attack.run(peer, x, criterion, **options)
            else:
                attack(peer, x, criterion, epsilons=None, **options)
        result[found] = nearest.x_adv[found]
        return result

    if len(x) == 0:
        return x.clone()
    with _seeded(generator, x.device), _quiet(), frozen(model), torch.enable_grad():
        return search(run, model, x, goal, generator)


class _IntoBox(torch.autograd.Function):
    """Clip images to the box, outside which a model's outputs may be meaningless, and pass the gradient through unchanged.

    Entries of the gradient that are not finite become 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return finite(grads[0])


class _OwnDraws(TorchFunctionMode):
    """Inside this context, torch.rand and torch.randn of N images draw from a separate stream for each image of x (N,C,H,W)."""

    def __init__(self, x: Tensor, generator: SampleGenerator) -> None:
        super().__init__()
        draws = Draws(x, generator)
        self.n = len(x)
        self.draws = {
            torch.rand: draws.uniform, torch.rand_like: draws.uniform,
            torch.randn: draws.normal, torch.randn_like: draws.normal,
        }  # fmt: skip

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.draws:
            first = args[0]
            shape = first.shape if isinstance(first, Tensor) else first if isinstance(first, Sequence) else args
            if len(shape) == 4 and shape[0] == self.n:
                return self.draws[function](*shape[1:])
        return function(*args, **(kwargs or {}))


class _Raised(nn.Module):
    """The model with the true class's logit raised, or the target's lowered, by twice the margin of a tie.

    An attack that converges on this model's boundary has clearly crossed the original one. goal: the same for every batch.
    """

    def __init__(self, model: nn.Module, goal: Goal) -> None:
        super().__init__()
        self.model, self.y, self.sign = model, goal.labels, -1 if goal.targeted else 1

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(_IntoBox.apply(x))
        lead = self.sign * 2 * ATTACK_TIE * tie_scale(logits.detach(), self.y)[:, None]
        return logits.scatter_add(1, self.y[:, None], lead)


def _criterion(nearest: Nearest, *, tells: bool) -> Any:
    """Return a foolbox criterion, on the logits of `_Raised`, that keeps the nearest adversarial example that it sees.

    tells: report to the attack which images are adversarial; otherwise report that none is.
    """
    import eagerpy
    from foolbox.criteria import Misclassification, TargetedMisclassification

    goal = nearest.goal

    class NearestSeen(TargetedMisclassification if goal.targeted else Misclassification):  # type: ignore[misc]
        def __call__(self, perturbed: Any, outputs: Any) -> Any:
            logits, tried = outputs.raw.detach(), perturbed.raw.detach().clamp(0, 1)
            clearly = goal.closeness(logits, nearest.y) > -ATTACK_TIE * tie_scale(logits, nearest.y)
            adversarial = nearest.keep(tried, clearly)
            return eagerpy.astensor(adversarial if tells else torch.zeros_like(adversarial))

    return NearestSeen(nearest.y)


@contextmanager
def _seeded(generator: Generator | None, device: torch.device) -> Iterator[None]:
    """Seed the global generators, from which foolbox draws, from `generator`, and restore their state afterwards."""
    cuda = [device] if device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda):
        at = None if generator is None else generator.device
        if isinstance(generator, SampleGenerator):
            seed = generator.common % 2**31
        else:
            seed = int(torch.randint(2**31, (), generator=generator, device=at))
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress foolbox's warnings, and keep its log calls from configuring the root logger permanently."""
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(silent)
