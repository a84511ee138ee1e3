"""Run one attack on tensors, batch by batch: the implementation of `robustcls.attack`."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._nearest import others_of
from robustcls.attacks._targets import STREAM, Target, cannot_aim, choose_targets, names_of, needs_logits
from robustcls.core import plugins
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.draws import SampleGenerator
from robustcls.core.eight_bits import note_on_levels, rounded, rounded_inside, takes_eight_bits, whole_levels
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen, kept_from
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.threat import BALL, ThreatModel
from robustcls.core.traits import Traits, takes, takes_target, traits_of
from robustcls.runtime.device import resolve_batch_size
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import classifier_with_warning, predict


def run_attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attack: str | Callable[..., Tensor],
    *,
    target: Target | None,
    batch_size: int | str,
    seed: int,
    index: Tensor | None,
    progress: bool,
) -> Tensor:
    """Return x_adv on the device of the images. All arguments are those of `robustcls.attack`."""
    check_images(images, labels, input_size_of(model))
    named, function = plugins.parse("attack", attack), plugins.load("attack", attack)
    is_own = plugins.is_own("attack", attack)
    threat.check_options(str(named), plugins.resolved("attack", attack))
    if not is_own:
        threat.check_known(str(named), traits_of(function))
    threat.check_fits(images.shape[1:])
    model = classifier_with_warning(model, images, labels)
    device = device_of(model)
    size = resolve_batch_size(batch_size, images.shape[1:], device)
    if traits_of(function).universal:
        size = len(images)
    index = torch.arange(len(images)) if index is None else index
    # The attack needs gradients even if the caller disabled them, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), frozen(model):
        x = images.detach().to(device, torch.float32, copy=True)
        if eight_bits := takes_eight_bits(model, threat):  # the model sees rounded images, so attack those
            note_on_levels(threat)
        x, searched = (rounded(x), whole_levels(threat)) if eight_bits else (x, threat)
        y = labels.detach().to(device, torch.int64, copy=True)
        fp32 = Counted(model)
        with torch.no_grad():
            first = fp32(x[:1])
            check_logits(first, y)
            num_classes = first.shape[1]
        aims = None
        if target is not None:
            if not takes_target(function):
                raise InputError(cannot_aim(str(named)))
            draws = SampleGenerator.of(index, mix(seed, STREAM), device)
            logits = predict(fp32, x, size).to(device) if needs_logits(target) else None
            names = names_of(model, num_classes)
            aims = choose_targets(target, y, num_classes, draws, logits=logits, names=names)
        options: dict[str, Any] = {"others": others_of(x, y, index)} if takes(function, "others") else {}
        batches = []
        for rows in follow(torch.arange(len(x)).split(size), str(named), show=progress):
            if takes(function, "generator"):
                options["generator"] = SampleGenerator.of(index[rows], seed, device)
            if aims is not None:
                options["target"] = aims[rows]
            with kept_from(fp32) if is_own else nullcontext():
                result = function(fp32, x[rows], y[rows], searched, **options)
            if fault := fault_of(result, x[rows]):
                raise InputError(
                    f"{named}: {fault}: return the adversarial images, a float tensor of the images' shape"
                )
            batches.append(result.detach().float())
        x_adv = rounded_inside(torch.cat(batches), x, threat) if eight_bits else torch.cat(batches)
        if aims is not None:
            x_adv = x.where((aims == y).view(-1, 1, 1, 1), x_adv)
        if problem := outside_of(x_adv, x, threat, traits_of(function)):
            advice = "evaluate does not count them: end with threat.project(x_adv, x)"
            warnings.warn(f"{named}: {problem}; {advice}", stacklevel=3)
        return x_adv.to(images.device)


def fault_of(result: object, x: Tensor) -> str:
    """Return why an attack's result cannot be adversarial images of x, or "" if it can."""
    if not isinstance(result, Tensor):
        return f"it gave {type(result).__name__} for images {tuple(x.shape)}"
    if result.shape != x.shape:
        return f"it gave {tuple(result.shape)} for images {tuple(x.shape)}"
    return "" if result.is_floating_point() else f"it gave {result.dtype} for images of {x.dtype}"


def outside_of(x_adv: Tensor, x: Tensor, threat: ThreatModel, traits: Traits) -> str:
    """Return how many images break the threat model, and by how much, as text; "" if none does.

    Counted are images with values that are not finite, outside [0, 1], changed outside the mask, or outside the ball. Those
    outside the ball are not counted for attacks whose traits declare that they leave it.
    """
    bad = ~x_adv.isfinite().flatten(1).all(1)
    flat = x_adv.flatten(1)
    over = torch.maximum(-flat.amin(1), flat.amax(1) - 1).masked_fill(bad, 0)
    problems = []
    if bad.any():
        problems.append(f"{int(bad.sum())} with values that are not finite")
    far = threat.distance(x_adv, x).masked_fill(bad, 0)
    leaves = traits.minimum_norm or traits.training_only or traits.unrestricted
    if (away := far > threat.eps + BALL).any() and not leaves:
        problems.append(f"{int(away.sum())} outside {threat}, the farthest at {far.amax().item():.4g}")
    if (changed := ~threat.keeps_mask(x_adv, x) & ~bad).any():
        problems.append(f"{int(changed.sum())} changed outside the mask")
    if (over > 0).any():
        problems.append(f"{int((over > 0).sum())} outside [0, 1], by up to {over.amax().item():.4g}")
    return f"of {len(x)} images {' and '.join(problems)}" if problems else ""
