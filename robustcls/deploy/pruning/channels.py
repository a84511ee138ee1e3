"""Structured pruning: remove whole channels, which makes the network smaller and faster on any hardware."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError, one_line
from robustcls.core.losses import cross_entropy
from robustcls.core.progress import follow
from robustcls.models.heads import head_of


def channels(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    ratio: float = 0.5,
    criterion: Literal["taylor", "l1", "random"] = "taylor",
    multiple: int = 16,
    seed: int = 0,
) -> None:
    """Remove a share of the channels of every layer except the head, in place, with all weights that depend on them.

    Groups of layers that must lose the same channels, such as the inputs of a residual sum, are found by tracing a forward pass
    (DepGraph: Fang et al. 2023, arXiv:2301.12900) with Torch-Pruning.

    Args:
        model: the model to prune; the number of outputs stays the same.
        images, labels: training images N,C,H,W in [0, 1] and labels N; their gradients rank channels for `taylor`.
        ratio: the share of channels to remove, above 0 and below 1.
        criterion: which channels to remove first: those with the least squared first-order effect on the loss, summed over
            images (`taylor`, Molchanov et al. 2019, arXiv:1906.10771), those with the least l1 norm of the weights (`l1`, Li et
            al. 2016, arXiv:1608.08710), or random channels.
        multiple: round the number of remaining channels of a layer to the nearest multiple, which CPUs run faster. A layer
            that keeps fewer channels is rounded to a multiple of half of it, a quarter of it, and so on.
        seed: seed of `random`.

    Raises:
        InputError: if the ratio leaves no channel of a layer, or all of them, or the network cannot be pruned in this way.
    """
    if not 0 < ratio < 1:
        raise InputError(
            f"channels: ratio={ratio:g} leaves {'all' if ratio <= 0 else 'no'} channels: give one between 0 and 1"
        )
    if multiple < 1:
        raise InputError(f"channels: multiple={multiple} is not a number of channels: give 1 or more")
    if any(map(_attends, model.modules())):  # tracing the reshapes of attention takes gigabytes, and then fails
        raise InputError(f"channels: {model.arch} has attention layers, whose heads cannot lose channels: prune a CNN")
    try:
        import torch_pruning
    except ImportError:
        raise InputError("pruning channels needs Torch-Pruning: pip install 'robustcls[prune]'") from None
    importance = {
        "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(multivariable=True),
        "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
        "random": torch_pruning.importance.RandomImportance,
    }[criterion]()
    _, head = head_of(model.net, len(model.classes))
    x = images[:2].to(device_of(model))
    trains, training = [parameter.requires_grad for parameter in model.parameters()], model.training
    model.eval().requires_grad_(True)
    try:
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            graph = torch_pruning.DependencyGraph().build_dependency(model, x)
            groups = list(graph.get_all_groups(ignored_layers=list(head.modules())))
            _check_ratio(groups, ratio)
            by_loss = criterion == "taylor"
            ranks = _effects(groups, importance, model, images, labels) if by_loss else map(importance, groups)
            chosen = [_least(group, rank, ratio, multiple) for group, rank in zip(groups, ranks, strict=True)]
            if not any(chosen):
                raise InputError(
                    f"channels: ratio={ratio:g} with multiple={multiple} removes no channel: raise `ratio` or lower `multiple`"
                )
            for group, channels in zip(groups, chosen, strict=True):
                if channels:
                    graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, channels).prune()
            with torch.no_grad():
                model(x)
    except InputError:
        raise
    except Exception as error:  # tracing may raise anything, as may a forward pass that assumes the original widths
        raise InputError(f"the channels of {model.arch} cannot be pruned: {one_line(error):.160}") from None
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    for parameter, flag in zip(model.parameters(), trains, strict=True):
        parameter.requires_grad_(flag)


def kept(width: int, ratio: float, multiple: int) -> int:
    """Return the number of channels of a layer that stay; 0 if the ratio leaves none."""
    exact = int(width * (1 - ratio) + 1e-9)
    while multiple > max(exact, 1):
        multiple //= 2
    low = exact - exact % multiple
    high = min(low + multiple, width)
    return high if high - exact < exact - low else low


def _check_ratio(groups: Sequence[Any], ratio: float) -> None:
    """Raise InputError if the narrowest layer would lose all channels."""
    narrowest = min((len(group[0].idxs) // _parts(group) for group in groups), default=2)
    if kept(narrowest, ratio, 1) < 1:
        most = (
            f"give {math.floor(1000 * (1 - 1 / narrowest)) / 1000:g} or less"
            if narrowest > 1
            else "it cannot be pruned"
        )
        raise InputError(f"channels: ratio={ratio:g} leaves no channel of a layer that has {narrowest}: {most}")


def _least(group: Any, importance: Tensor | None, ratio: float, multiple: int) -> list[int]:
    """The channels of the group's first layer to remove: the least important ones."""
    if importance is None:  # no layer of the group has weights
        return []
    parts = _parts(group)
    width = len(importance) // parts
    keep = kept(width, ratio, max(1, multiple // parts))
    least = importance.view(parts, width).mean(0).argsort()[: width - keep]
    return sorted(part * width + channel for part in range(parts) for channel in least.tolist())


def _attends(module: nn.Module) -> bool:
    """Whether a module is an attention layer: PyTorch's, or one that computes queries, keys and values in one linear layer."""
    layers = [layer for layer in module.children() if isinstance(layer, nn.Linear)]
    return isinstance(module, nn.MultiheadAttention) or any(one.out_features == 3 * one.in_features for one in layers)


def _parts(group: Any) -> int:
    """The number of equal parts into which grouped layers divide the channels; all parts must lose the same channels."""

    def of(layer: nn.Module) -> int:
        if isinstance(layer, nn.modules.conv._ConvNd):
            return 1 if layer.groups == layer.out_channels else layer.groups
        return layer.num_groups if isinstance(layer, nn.GroupNorm) else 1

    return max(of(item.dep.target.module) for item in group)


def _effects(
    groups: Sequence[Any], importance: Any, model: nn.Module, images: Tensor, labels: Tensor
) -> list[Tensor | None]:
    """For each group, the squared first-order effect on the loss of removing each channel, summed over images."""
    device, sums = device_of(model), dict[int, Tensor]()
    for row in follow(range(len(images)), "ranking channels", "image"):
        model.zero_grad(set_to_none=True)  # image by image: over a batch, the gradients of a trained network cancel out
        cross_entropy(model(images[row : row + 1].to(device)), labels[row : row + 1].to(device)).sum().backward()
        for number, group in enumerate(groups):
            if (effect := importance(group)) is not None:
                sums[number] = sums.get(number, 0) + effect.square()
    return [sums.get(number) for number in range(len(groups))]
