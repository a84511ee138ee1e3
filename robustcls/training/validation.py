"""Clean and robust accuracy while training: searched on the fast twin, judged by the fp32 model."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.runtime.search import SearchTwin


def clean_accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> float:
    """Share of x (N,C,H,W) that the model, in eval mode, classifies as y."""
    with frozen(model), torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in _batches(x, y, batch_size))
    return right / len(y)


def robust_accuracy(
    model: nn.Module,
    twin: SearchTwin,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attack: Callable[..., Tensor],
    batch_size: int,
    seed: int,
) -> float:
    """Share of x that is right both clean and attacked; the twin is refreshed from its model first."""
    twin.refresh()
    generator = Generator(x.device).manual_seed(seed)
    right = 0
    with frozen(model):
        for images, labels in _batches(x, y, batch_size):
            x_adv = attack(twin, images, labels, threat, generator=generator)
            with torch.no_grad():
                stands = (model(images).argmax(1) == labels) & (model(x_adv).argmax(1) == labels)
            right += int(stands.sum())
    return right / len(y)


def _batches(x: Tensor, y: Tensor, batch_size: int):
    return zip(x.split(batch_size), y.split(batch_size), strict=True)
