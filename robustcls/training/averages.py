"""Averages of the weights over the course of training, in fp32."""

import copy
from collections.abc import Callable, Container, Iterable

import torch
from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import keep_frozen_in_eval
from robustcls.runtime.low_rank import merge, plain_modules, plain_parameters


class Average:
    """A copy of the model, merged, whose weights are an average; `updates` counts what went into it."""

    def __init__(self, model: Classifier) -> None:
        self.model: Classifier = merge(copy.deepcopy(model)).requires_grad_(False)  # type: ignore[assignment]
        self.updates = 0

    def after_update(self, model: nn.Module) -> None:
        """Called after each update of the model's weights."""

    def after_epoch(
        self, model: nn.Module, epoch: int, epochs: int, forwards: Callable[[Classifier], Iterable[object]]
    ) -> None:
        """Called after each epoch: 1, 2, ... of epochs. forwards: passes of a model over training's images, one an item."""

    @torch.no_grad()
    def move(self, model: nn.Module, share: float) -> None:
        """Weights go by `share` of the way to the model's; buffers, such as BatchNorm's statistics, are its latest."""
        self.updates += 1
        theirs = plain_parameters(model)
        own = dict(self.model.named_parameters())
        torch._foreach_lerp_(list(own.values()), [theirs[name] for name in own], share)
        torch._foreach_copy_(list(self.model.buffers()), list(model.buffers()))


class Ema(Average):
    """Exponential moving average over the updates.

    The decay starts low and rises to its value, so that the first random weights are forgotten (as in Rebuffi et al.
    2021, arXiv:2103.01946).
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    def after_update(self, model: nn.Module) -> None:
        self.move(model, 1 - min(self.decay, (1 + self.updates) / (10 + self.updates)))


class Swa(Average):
    """The plain mean over the ends of the last epochs (Izmailov et al. 2018, arXiv:1803.05407).

    Such weights were never run together, so BatchNorm's statistics are estimated anew by forward passes in train mode.
    """

    def __init__(self, model: Classifier, start: float, frozen: Container[nn.Module] = ()) -> None:
        """start: share of the run after which epochs count. frozen: modules of the model whose statistics stay."""
        super().__init__(model)
        pairs = zip(plain_modules(model), self.model.modules(), strict=True)
        self.start, self.frozen = start, [own for module, own in pairs if module in frozen]

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
            norm.momentum = None  # the mean over all passes, not one that forgets
        for _ in forwards(self.model):
            pass
        self.model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
