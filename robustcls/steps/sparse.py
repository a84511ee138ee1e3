"""Sparse training: most weights are 0 throughout."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.objective import Loss, StepContext
from robustcls.models.transfer import LAYERS


def sparse(
    state: StepContext, x: Tensor, y: Tensor, *, density: float = 0.1, every: int = 500, share: float = 0.5
) -> Loss:
    """One update of the nonzero weights; from time to time the smallest of them are exchanged (arXiv:2202.09844).

    Flying Bird (Chen et al. 2022). At first the largest weights of each layer are kept and all others set to 0. Every `every`
    updates, the smallest nonzero weights of each layer are set to 0, and as many weights with the largest gradients become
    trainable.

    density: fraction of the weights of all convolutions and linear layers that is nonzero. It is distributed over the layers in
    proportion to the sum of their dimensions (ERK, arXiv:1911.11134). share: fraction of a layer's nonzero weights that is
    exchanged; it falls to 0 over the run by a cosine.
    """
    if not (0 < density <= 1 and every >= 1 and 0 <= share <= 1):
        raise InputError(
            f"sparse(density={density}, every={every}, share={share}): give density and share from 0 to 1, and 1 or more "
            "for every"
        )
    weights = sparse_weights(state.model)
    counts = dict(zip(weights, erk([tuple(weight.shape) for weight in weights.values()], density), strict=True))
    if weights.keys() - state.state.keys():
        state.state.update(first_masks(weights, counts))
        apply_masks(state, weights)
    loss = state.gradient(x, y, state.attack)
    if state.batches_done and state.batches_done % every == 0:
        falling = share * 0.5 * (1 + math.cos(math.pi * state.share_done))
        most = {name: weight.numel() - counts[name] for name, weight in weights.items()}
        exchange(state, weights, {name: min(most[name], int(falling * counts[name])) for name in weights})
    for name, weight in weights.items():  # no gradient, so momenta stay 0
        if weight.grad is not None:
            weight.grad.mul_(state.state[name])
    state.update()
    with torch.no_grad():
        for name, weight in weights.items():  # Muon's update of a filter depends on the others
            weight.mul_(state.state[name])
    nonzero = torch.stack([weight.detach().count_nonzero() for weight in weights.values()]).sum()
    measured = nonzero / sum(weight.numel() for weight in weights.values())
    return dataclasses.replace(loss, parts={**loss.parts, "density": measured})


def sparse_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of all convolutions and linear layers by name. Raises InputError where one is not trained."""
    names: dict[nn.Parameter, str] = {}  # a weight that several layers share appears once
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        weight = module._parameters.get("weight")
        if weight is None or not weight.requires_grad:
            raise InputError(
                f"step sparse needs all layers to be trained, and {name} is not: leave out `tune` and `freeze`"
            )
        names.setdefault(weight, f"{name}.weight")
    return {name: weight for weight, name in names.items()}


def first_masks(weights: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Return a mask of each layer's largest weights, `counts` of them: bool, contiguous."""
    masks = {}
    for name, weight in weights.items():
        count = counts[name]
        if count == 0:
            raise InputError(f"step sparse would leave nothing of {name}: give it a larger density")
        mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        mask[weight.detach().abs().flatten().topk(count).indices] = True
        masks[name] = mask.view(weight.shape)
    return masks


def erk(shapes: Sequence[Sequence[int]], density: float) -> list[int]:
    """Return how many weights each layer keeps, so that the total is the fraction `density` of all weights.

    Erdos-Renyi-Kernel (Evci et al. 2019, arXiv:1911.11134): a layer's number is proportional to the sum of its dimensions.
    Layers that would get more weights than they have are dense.
    """
    sizes, sides = [math.prod(shape) for shape in shapes], [sum(shape) for shape in shapes]
    dense: set[int] = set()
    scale = 0.0
    while rest := [place for place in range(len(shapes)) if place not in dense]:
        remaining = density * sum(sizes) - sum(sizes[place] for place in dense)
        scale = remaining / sum(sides[place] for place in rest)
        over = {place for place in rest if scale * sides[place] >= sizes[place]}
        if not over:
            break
        dense |= over
    counts, wanted, given = [], 0.0, 0
    for place, size in enumerate(sizes):  # carry rounding errors over, so that the sum is exact
        wanted += size if place in dense else scale * sides[place]
        counts.append(math.floor(wanted + 0.5) - given)
        given += counts[-1]
    return counts


def exchange(state: StepContext, weights: Mapping[str, nn.Parameter], counts: Mapping[str, int]) -> None:
    """Exchange `counts` weights of each layer: set the smallest to 0, and unmask as many zeros with the largest gradients."""
    for name, weight in weights.items():
        mask, count = state.state[name], counts[name]
        if count == 0 or weight.grad is None:
            continue
        gradient = weight.grad.abs().nan_to_num(0, 0, 0).masked_fill(mask, -1)
        largest = gradient.flatten().topk(count).indices
        smallest = weight.detach().abs().masked_fill(~mask, torch.inf).flatten().topk(count, largest=False).indices
        mask.view(-1)[smallest] = False
        mask.view(-1)[largest] = True
    apply_masks(state, weights)


@torch.no_grad()
def apply_masks(state: StepContext, weights: Mapping[str, nn.Parameter]) -> None:
    """Set weights, their optimizer state and their average to 0 outside the masks."""
    for name, weight in weights.items():
        for tensor in (weight, *state.followers(name)):
            tensor.mul_(state.state[name])
