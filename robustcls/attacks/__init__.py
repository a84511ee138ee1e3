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
    index: "Tensor | None" = None,
    progress: bool = False,
) -> "Tensor":
    """What the attack `spec`, such as `pgd(steps=20)`, makes of images (N,C,H,W in [0, 1]): x_adv, float32, on their device.

    model: any nn.Module on [0, 1] pixels, left exactly as it was. labels: N. batch_size: of it depends rounding alone, for
    each image has its own random numbers. index: N whole numbers that name the images, on which with the seed these
    depend; their places unless given. progress: shown on stderr, as `core/progress.py` says.
    Raises InputError.
    """
    import torch

    from robustcls.attacks._pool import others_of
    from robustcls.core import plugins
    from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
    from robustcls.core.draws import SampleGenerator
    from robustcls.core.gradients import frozen
    from robustcls.core.progress import follow
    from robustcls.core.traits import takes, traits_of
    from robustcls.runtime.device import resolve_batch_size
    from robustcls.runtime.fused import Counted
    from robustcls.runtime.predict import told

    check_images(images, labels, input_size_of(model))
    function = plugins.load("attack", spec)
    threat.check_options(spec, plugins.resolved("attack", spec))
    threat.check_eps(images.shape[1:])
    model = told(model, images, labels)
    device = device_of(model)
    size = resolve_batch_size(batch_size, images.shape[1:], device)
    if traits_of(function).universal:
        size = len(images)
    index = torch.arange(len(images)) if index is None else index
    # Gradients are needed even where the caller switched them off, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), frozen(model):
        x = images.detach().to(device, torch.float32, copy=True)
        y = labels.detach().to(device, torch.int64, copy=True)
        fp32 = Counted(model)
        with torch.no_grad():
            check_logits(fp32(x[:1]), y)
        more = {"others": others_of(x, y, index)} if takes(function, "others") else {}
        batches = torch.arange(len(x)).split(size)
        found = []
        for rows in follow(batches, spec, show=progress):
            generator = SampleGenerator.of(index[rows], seed, device)
            found.append(function(fp32, x[rows], y[rows], threat, generator=generator, **more).detach())
        return torch.cat(found).to(images.device)
