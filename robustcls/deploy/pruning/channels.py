"""Structured pruning: whole channels go, so that the network is smaller and faster wherever it runs."""

import copy
import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError, one_line
from robustcls.core.losses import cross_entropy
from robustcls.models.heads import head_of

BATCH = 64


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
    """Remove a share of the channels of every layer but the last, in place, with what depends on them.

    Groups of layers that must lose the same channels, such as those of a residual sum, are found by following a pass
    (DepGraph: Fang et al. 2023, arXiv:2301.12900), by Torch-Pruning.

    Args:
        model: whose channels are removed; the outputs stay.
        images, labels: training images N,C,H,W in [0, 1] and N labels; their gradients rank channels by `taylor`.
        ratio: the share of channels to remove, above 0 and below 1.
        criterion: what is removed first: least first-order effect on the loss (Molchanov et al. 2019, arXiv:1906.10771),
            least l1 norm of the weights (Li et al. 2016, arXiv:1608.08710), or any.
        multiple: numbers of channels are rounded to multiples of it, which CPUs run faster.
        seed: of `random`.

    Raises:
        InputError: for a ratio that leaves no channel or all, and for a network that cannot be pruned so.
    """
    if not 0 < ratio < 1:
        raise InputError(
            f"channels: ratio={ratio:g} leaves {'all' if ratio <= 0 else 'no'} channels: give one between 0 and 1"
        )
    if multiple < 1:
        raise InputError(f"channels: multiple={multiple} is no number of channels: give 1 or more")
    try:
        import torch_pruning
    except ImportError:
        raise InputError("pruning channels needs Torch-Pruning: pip install 'robustcls[prune]'") from None
    importance = {
        "taylor": torch_pruning.importance.GroupTaylorImportance,
        "l1": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=1),
        "random": torch_pruning.importance.RandomImportance,
    }[criterion]()
    head, _ = head_of(model.net, len(model.classes))
    x = images[:BATCH].to(device_of(model))
    before = [parameter.requires_grad for parameter in model.parameters()]
    training = model.training
    model.eval().requires_grad_(True)
    try:
        with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            pruner = torch_pruning.pruner.BasePruner(
                model, x[:2], importance=importance, pruning_ratio=ratio, round_to=multiple,
                ignored_layers=[model.net.get_submodule(head)],
            )  # fmt: skip
            if criterion == "taylor":
                _add_gradients(model, images, labels)
            pruner.step()
            with torch.no_grad():
                model(x[:2])
    except Exception as error:  # whatever tracing or a network whose forward pass names its own widths raises
        raise InputError(f"the channels of {model.arch} cannot be pruned: {one_line(error):.160}") from None
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    for parameter, flag in zip(model.parameters(), before, strict=True):
        parameter.requires_grad_(flag)


def _add_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    device = device_of(model)
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        cross_entropy(model(x.to(device)), y.to(device)).sum().backward()


def pruned(model: Classifier, method: object, images: Tensor, labels: Tensor) -> Classifier:
    """A pruned copy."""
    copied = copy.deepcopy(model)
    method(copied, images, labels)  # type: ignore[operator]
    return copied
