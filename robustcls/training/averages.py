"""Averages of the weights over the course of training: EMA and SWA, in fp32."""

import copy
from collections.abc import Callable, Container, Iterable

import torch
from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import keep_frozen_in_eval
from robustcls.runtime.low_rank import merge, plain_modules, plain_parameters


class Average:
    """A copy of the model whose weights are an average, with LoRA matrices merged. `updates` counts the averaged weights."""

    def __init__(self, model: Classifier) -> None:
        self.model: Classifier = merge(copy.deepcopy(model)).requires_grad_(False)  # type: ignore[assignment]
        self.updates = 0

    def after_update(self, model: nn.Module) -> None:
        """Update the average after an update of the model's weights. The base class does nothing."""

    def after_epoch(
        self, model: nn.Module, epoch: int, epochs: int, forwards: Callable[[Classifier], Iterable[object]]
    ) -> None:
        """Update the average after an epoch. The base class does nothing.

        epoch: counted from 1, of `epochs`. forwards: gives an iterator that runs a model on one training batch per item.
        """

    @torch.no_grad()
    def move(self, model: nn.Module, share: float) -> None:
        """Move the averaged weights towards the model's by the fraction `share`; copy buffers such as BatchNorm statistics."""
        self.updates += 1
        current = plain_parameters(model)
        averaged = dict(self.model.named_parameters())
        torch._foreach_lerp_(list(averaged.values()), [current[name] for name in averaged], share)
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))


class Ema(Average):
    """Exponential moving average of the weights over the updates.

    The decay starts low and rises to its final value, so that the random initial weights are forgotten (as in Rebuffi et al.
    2021, arXiv:2103.01946).
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def after_update(self, model: nn.Module) -> None:
        self.move(model, 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))


class Swa(Average):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs.

    Izmailov et al. 2018, arXiv:1803.05407. The BatchNorm statistics of training do not fit the averaged weights, so they are
    estimated again by forward passes in train mode.
    """

    def __init__(self, model: Classifier, start: float, frozen: Container[nn.Module] = ()) -> None:
        """start: fraction of the run after which epochs are averaged. frozen: modules whose BatchNorm statistics are kept."""
        super().__init__(model)
        pairs = zip(plain_modules(model), self.model.modules(), strict=True)
        self.start, self.frozen = start, [copied for module, copied in pairs if module in frozen]

    @torch.no_grad()
    def after_epoch(
        self, model: nn.Module, epoch: int, epochs: int, forwards: Callable[[Classifier], Iterable[object]]
    ) -> None:
        if epoch <= self.start * epochs:
            return
        self.move(model, 1 / (1 + self.updates))
        self.model.train()
        keep_frozen_in_eval(self.frozen)
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all passes instead of a moving average
        for _ in forwards(self.model):
            pass
        self.model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
