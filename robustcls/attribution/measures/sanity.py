"""Controls for attribution maps: shuffled weights, another class, and noise of the attack's norm."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError


def shuffled_weights(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the model with every tensor's values in random order (Adebayo et al. 2018, arXiv:1810.03292).

    That is the paper's model parameter randomisation as an independent draw of all layers: each floating-point parameter
    and buffer keeps its own values, and with them its scale, so that activations neither die nor overflow. Tied parameters
    stay tied. The normalisation of a Classifier (`mean`, `std`) stays: it belongs to the data. The model and the global
    random state stay as they are.
    """
    randomised = deepcopy(model)
    kept = {
        id(t) for module in randomised.modules() if isinstance(module, Classifier) for t in (module.mean, module.std)
    }
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Each tensor comes up once, however many names it has.
        for tensor in (*randomised.parameters(), *randomised.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and id(tensor) not in kept:
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].view(tensor.shape))
    return randomised


def other_class(target: Tensor, num_classes: int, seed: int) -> Tensor:
    """Draw another class than each image's target: the random-logit test (Sixt et al. 2020, arXiv:1912.09818).

    target: N integers. Returns N int64 on target's device. Raises InputError for a single class, or a target out of range.
    """
    if num_classes < 2:
        raise InputError(f"{num_classes} class leaves no other one to explain: give a model of two classes or more")
    if target.ndim != 1 or target.is_floating_point():
        raise InputError(f"targets of shape {tuple(target.shape)} and {target.dtype}: give one integer per image")
    if len(target) and not 0 <= target.min().item() <= target.max().item() < num_classes:
        raise InputError(
            f"targets lie in [{target.min().item()}, {target.max().item()}], "
            f"not in [0, {num_classes - 1}]: classes count from 0"
        )
    steps = torch.randint(1, num_classes, target.shape, generator=torch.Generator().manual_seed(seed))
    return (target.to(torch.int64) + steps.to(target.device)) % num_classes


def benign_noise(x: Tensor, x_adv: Tensor, seed: int) -> Tensor:
    """Return the images with the attack's changes at other places and with other signs, so that any norm stays the same.

    A change that would leave [0, 1] takes the other sign; where that leaves it too, it is shortened.
    """
    generator = torch.Generator().manual_seed(seed)
    delta = (x_adv - x).flatten(1)
    order = torch.rand(delta.shape, generator=generator).argsort(1)
    signs = torch.randint(0, 2, delta.shape, generator=generator) * 2 - 1
    change = (delta.gather(1, order) * signs).view(x.shape)
    moved = x + change
    return torch.where((moved < 0) | (moved > 1), x - change, moved).clamp(0, 1)
