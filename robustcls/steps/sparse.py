"""Training of weights most of which are 0."""

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
    """One update of the few weights that are not 0; now and then the smallest of them give way to others (arXiv:2202.09844).

    Flying Bird (Chen et al. 2022). density: of the weights of all convolutions and linear layers, shared out among them by
    their sides (ERK, arXiv:1911.11134); the largest stay. Each `every` updates this share of a layer's weights, falling to
    0 over the run by a cosine, becomes 0 by magnitude, and as many zeros grow by their gradients.
    """
    if not (0 < density <= 1 and every >= 1 and 0 <= share <= 1):
        raise InputError(
            f"sparse(density={density}, every={every}, share={share}): give shares from 0 to 1 and updates from 1 on"
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
    for name, weight in weights.items():  # what is 0, with a momentum of 0, then stays so
        if weight.grad is not None:
            weight.grad.mul_(state.state[name])
    state.update()
    left = torch.stack([weight.detach().count_nonzero() for weight in weights.values()]).sum()
    found = left / sum(weight.numel() for weight in weights.values())
    return dataclasses.replace(loss, parts={**loss.parts, "density": found})


def sparse_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all convolutions and linear layers, by name. Raises InputError where one is not trained."""
    found: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        weight = module._parameters.get("weight")
        if weight is None or not weight.requires_grad:
            raise InputError(
                f"step sparse chooses among trained weights, and {name}'s are not: train all, without `tune`"
            )
        found.setdefault(weight, f"{name}.weight")
    return {name: weight for weight, name in found.items()}


def first_masks(weights: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Of each layer so many weights, the largest: bool, contiguous."""
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
    """How many weights each layer keeps, in all `density` of them (Evci et al. 2019, arXiv:1911.11134).

    In proportion to the sum of its sides, but for layers which that would give more than they have: these are dense.
    """
    sizes, sides = [math.prod(shape) for shape in shapes], [sum(shape) for shape in shapes]
    dense: set[int] = set()
    scale = 0.0
    while rest := [place for place in range(len(shapes)) if place not in dense]:
        left = density * sum(sizes) - sum(sizes[place] for place in dense)
        scale = left / sum(sides[place] for place in rest)
        over = {place for place in rest if scale * sides[place] >= sizes[place]}
        if not over:
            break
        dense |= over
    counts, wanted, given = [], 0.0, 0
    for place, size in enumerate(sizes):  # rounded so that the sum is right
        wanted += size if place in dense else scale * sides[place]
        counts.append(math.floor(wanted + 0.5) - given)
        given += counts[-1]
    return counts


def exchange(state: StepContext, weights: Mapping[str, nn.Parameter], counts: Mapping[str, int]) -> None:
    """In each layer so many weights, the smallest, become 0, and as many zeros of the largest gradients are free."""
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
    """Weights, their momenta and their average are 0 outside the masks."""
    for name, weight in weights.items():
        for tensor in (weight, *state.followers(name)):
            tensor.mul_(state.state[name])
