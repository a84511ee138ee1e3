"""The expectation of a model that is random at prediction (EOT)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper, chains_in, logits_of, passes_of
from robustcls.core.seeds import mix


def averaged(model: nn.Module, *, draws: int = 20) -> nn.Module:
    """A random model as its mean over draws, whose gradient is the mean gradient (EOT; Athalye et al., arXiv:1802.00420).

    The mean is that of the logits, which up to a number that is the same for all classes is that of the log-probabilities:
    margins, cross-entropy and DLR are those of either. Each pass makes draws of its own, so that an attack cannot fit a
    perturbation to the noise that it has seen; within a pass the logits, the loss, its gradient and whether the model errs
    come from the same draws. The same noise follows from the same seed, whatever the state of torch's generators, which are
    left as they were; noise of `random` and of numpy is not seeded.

    On two small networks averaging logits, probabilities, losses or margins left the same accuracy to within 1 point. What
    differs from AutoAttack's `rand`: it averages the gradients of the losses and takes the loss of the last draw.

    Example:
        >>> robustcls.evaluate(robustcls.averaged(model, draws=20), images, labels, "linf:8/255", suite="rand")
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"averaged({model!r:.40}) is a wrapper around nothing: give a torch.nn.Module")
    if draws < 1:
        raise InputError(f"averaged(draws={draws}): a mean needs 1 draw or more")
    return Averaged(model, draws)


class Averaged(Wrapper):
    """The mean logits of `draws` passes, each with random numbers of its own."""

    def __init__(self, model: nn.Module, draws: int) -> None:
        super().__init__(model, f"averaged({{}}, draws={draws})")
        self.repeats = draws
        self.restart(0)

    def restart(self, seed: int) -> None:
        """The draws from here on follow from the seed."""
        self.seed, self.drawn = seed, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = []
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            for _ in range(self.repeats):
                torch.manual_seed(mix(self.seed, self.drawn))
                self.drawn += 1
                logits.append(logits_of(self.model(x.clone())))  # a copy: some models write on their input
        return torch.stack(logits).mean(0)


def averaged_in(model: nn.Module) -> list[Averaged]:
    """Those inside a model; none of a model that is taken as it is."""
    return [one for one in model.modules() if isinstance(one, Averaged)]


def draws_of(model: nn.Module) -> int:
    """Passes of the random model for one of this model."""
    return passes_of(chains_in(model))


def restart(model: nn.Module, *seed: int) -> None:
    """The noise that is averaged in a model follows from the seed from here on."""
    for number, one in enumerate(averaged_in(model)):
        one.restart(mix(*seed, number))


@contextmanager
def single_draw(model: nn.Module) -> Iterator[None]:
    """In it the model is the random model itself: each pass is one draw."""
    every = averaged_in(model)
    before = [one.repeats for one in every]
    try:
        for one in every:
            one.repeats = 1
        yield
    finally:
        for one, repeats in zip(every, before, strict=True):
            one.repeats = repeats
