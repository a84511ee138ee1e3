"""One attack on tensors, batch by batch; what `robustcls.attack` does."""

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
    """x_adv, on the images' device; all as `robustcls.attack` takes it."""
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
    # Gradients are needed even where the caller switched them off, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), frozen(model):
        x = images.detach().to(device, torch.float32, copy=True)
        if eight_bits := takes_eight_bits(model, threat):  # what it is sent is what counts
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
        more: dict[str, Any] = {"others": others_of(x, y, index)} if takes(function, "others") else {}
        found = []
        for rows in follow(torch.arange(len(x)).split(size), str(named), show=progress):
            if takes(function, "generator"):
                more["generator"] = SampleGenerator.of(index[rows], seed, device)
            if aims is not None:
                more["target"] = aims[rows]
            with kept_from(fp32) if is_own else nullcontext():
                made = function(fp32, x[rows], y[rows], searched, **more)
            if fault := fault_of(made, x[rows]):
                raise InputError(f"{named}: {fault}: return the adversarial images, a float tensor of their shape")
            found.append(made.detach().float())
        x_adv = rounded_inside(torch.cat(found), x, threat) if eight_bits else torch.cat(found)
        if aims is not None:
            x_adv = x.where((aims == y).view(-1, 1, 1, 1), x_adv)
        if said := outside_of(x_adv, x, threat, traits_of(function)):
            how = "evaluate does not count them: end with threat.project(x_adv, x)"
            warnings.warn(f"{named}: {said}; {how}", stacklevel=3)
        return x_adv.to(images.device)


def fault_of(made: object, x: Tensor) -> str:
    """Why what an attack gave cannot be adversarial images of x; "" where it can."""
    if not isinstance(made, Tensor):
        return f"it gave {type(made).__name__} for images {tuple(x.shape)}"
    if made.shape != x.shape:
        return f"it gave {tuple(made.shape)} for images {tuple(x.shape)}"
    return "" if made.is_floating_point() else f"it gave {made.dtype} for images of {x.dtype}"


def outside_of(x_adv: Tensor, x: Tensor, threat: ThreatModel, traits: Traits) -> str:
    """How many images lie outside [0, 1] and, unless the attack says that it leaves it, the ball, and how far; "" for none."""
    bad = ~x_adv.isfinite().flatten(1).all(1)
    flat = x_adv.flatten(1)
    over = torch.maximum(-flat.amin(1), flat.amax(1) - 1).masked_fill(bad, 0)
    said = []
    if bad.any():
        said.append(f"{int(bad.sum())} with values that are not finite")
    far = threat.distance(x_adv, x).masked_fill(bad, 0)
    leaves = traits.minimum_norm or traits.training_only or traits.unrestricted
    if (away := far > threat.eps + BALL).any() and not leaves:
        said.append(f"{int(away.sum())} outside {threat}, the farthest at {far.amax().item():.4g}")
    if (changed := ~threat.keeps_mask(x_adv, x) & ~bad).any():
        said.append(f"{int(changed.sum())} changed where the mask lets nothing change")
    if (over > 0).any():
        said.append(f"{int((over > 0).sum())} outside [0, 1], by up to {over.amax().item():.4g}")
    return f"of {len(x)} images {' and '.join(said)}" if said else ""
