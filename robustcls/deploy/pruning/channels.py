"""Structured pruning: whole channels go, so that the network is smaller and faster wherever it runs."""

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
    """Remove a share of the channels of every layer but the head, in place, with what depends on them.

    Groups of layers that must lose the same channels, such as those of a residual sum, are found by following a pass
    (DepGraph: Fang et al. 2023, arXiv:2301.12900), by Torch-Pruning.

    Args:
        model: whose channels are removed; the outputs stay.
        images, labels: training images N,C,H,W in [0, 1] and N labels; their gradients rank channels by `taylor`.
        ratio: the share of channels to remove, above 0 and below 1.
        criterion: what is removed first: least squared first-order effect on the loss, summed over images (Molchanov et al.
            2019, arXiv:1906.10771), least l1 norm of the weights (Li et al. 2016, arXiv:1608.08710), or any.
        multiple: what stays of a layer is rounded to the nearest multiple of it, which CPUs run faster; a layer that keeps
            fewer channels is rounded to a multiple of its half, or quarter ...
        seed: of `random`.

    Raises:
        InputError: for a ratio that leaves no channel of a layer, or all; for a network that cannot be pruned so.
    """
    if not 0 < ratio < 1:
        raise InputError(
            f"channels: ratio={ratio:g} leaves {'all' if ratio <= 0 else 'no'} channels: give one between 0 and 1"
        )
    if multiple < 1:
        raise InputError(f"channels: multiple={multiple} is no number of channels: give 1 or more")
    if any(map(_attends, model.modules())):  # following its reshapes takes gigabytes, and then fails
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
                    f"channels: ratio={ratio:g} with multiple={multiple} removes none: raise one or lower the other"
                )
            for group, channels in zip(groups, chosen, strict=True):
                if channels:
                    graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, channels).prune()
            with torch.no_grad():
                model(x)
    except InputError:
        raise
    except Exception as error:  # whatever tracing or a network whose forward pass names its own widths raises
        raise InputError(f"the channels of {model.arch} cannot be pruned: {one_line(error):.160}") from None
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    for parameter, flag in zip(model.parameters(), trains, strict=True):
        parameter.requires_grad_(flag)


def kept(width: int, ratio: float, multiple: int) -> int:
    """How many of a layer's channels stay: 0 where the ratio leaves none."""
    exact = int(width * (1 - ratio) + 1e-9)
    while multiple > max(exact, 1):
        multiple //= 2
    low = exact - exact % multiple
    high = min(low + multiple, width)
    return high if high - exact < exact - low else low


def _check_ratio(groups: Sequence[Any], ratio: float) -> None:
    """Raises InputError where the narrowest layer would lose all channels."""
    narrowest = min((len(group[0].idxs) // _parts(group) for group in groups), default=2)
    if kept(narrowest, ratio, 1) < 1:
        most = (
            f"give {math.floor(1000 * (1 - 1 / narrowest)) / 1000:g} or less"
            if narrowest > 1
            else "it cannot be pruned"
        )
        raise InputError(f"channels: ratio={ratio:g} leaves no channel of a layer that has {narrowest}: {most}")


def _least(group: Any, importance: Tensor | None, ratio: float, multiple: int) -> list[int]:
    """The channels of the group's first layer that go: the least important."""
    if importance is None:  # nothing there has weights
        return []
    parts = _parts(group)
    width = len(importance) // parts
    keep = kept(width, ratio, max(1, multiple // parts))
    least = importance.view(parts, width).mean(0).argsort()[: width - keep]
    return sorted(part * width + channel for part in range(parts) for channel in least.tolist())


def _attends(module: nn.Module) -> bool:
    """Whether it is an attention layer: PyTorch's, or one that makes queries, keys and values at once."""
    layers = [layer for layer in module.children() if isinstance(layer, nn.Linear)]
    return isinstance(module, nn.MultiheadAttention) or any(one.out_features == 3 * one.in_features for one in layers)


def _parts(group: Any) -> int:
    """Into how many equal parts grouped layers divide the channels; all parts must lose the same ones."""

    def of(layer: nn.Module) -> int:
        if isinstance(layer, nn.modules.conv._ConvNd):
            return 1 if layer.groups == layer.out_channels else layer.groups
        return layer.num_groups if isinstance(layer, nn.GroupNorm) else 1

    return max(of(item.dep.target.module) for item in group)


def _effects(
    groups: Sequence[Any], importance: Any, model: nn.Module, images: Tensor, labels: Tensor
) -> list[Tensor | None]:
    """Of each group's channels the squared change of the loss without them, to first order, summed over images."""
    device, sums = device_of(model), dict[int, Tensor]()
    for row in follow(range(len(images)), "ranking channels", "image"):
        model.zero_grad(set_to_none=True)  # image by image: over many, gradients of a trained network cancel
        cross_entropy(model(images[row : row + 1].to(device)), labels[row : row + 1].to(device)).sum().backward()
        for number, group in enumerate(groups):
            if (effect := importance(group)) is not None:
                sums[number] = sums.get(number, 0) + effect.square()
    return [sums.get(number) for number in range(len(groups))]
