"""Attacks: (model, x, y, threat, *, ..., generator=None) -> x_adv. One a file; the file's name is the plug-in's name."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustcls.core.threat import ThreatModel


def attack(
    model: "nn.Module",
    images: "Tensor",
    labels: "Tensor",
    threat: "ThreatModel",
    spec: str,
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> "Tensor":
    """What the attack `spec`, such as `pgd(steps=20)`, makes of images (N,C,H,W in [0, 1]): x_adv, on their device.

    model: any nn.Module on [0, 1] pixels, left exactly as it was. labels: N. Raises InputError.
    """
    import torch

    from robustcls.core import plugins
    from robustcls.core.classifier import check_images, device_of
    from robustcls.core.gradients import frozen

    check_images(images, labels, getattr(model, "input_size", None))
    function = plugins.load("attack", spec)
    device = device_of(model)
    generator = torch.Generator(device).manual_seed(seed)
    with frozen(model):
        found = [
            function(model, x.to(device), y.to(device), threat, generator=generator).to(images.device)
            for x, y in zip(images.float().split(batch_size), labels.split(batch_size), strict=True)
        ]
    return torch.cat(found)
