"""The public functions: what `robustcls` offers in Python, and what the commands call.

After the model, the images, the labels and the threat model, options are keywords; they are named as the flags of the
commands, mean the same and have the same defaults. Any `torch.nn.Module` is taken on any device and in any mode, and its
mode, parameters, gradients and buffers are left exactly as they were.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._pool import others_of
from robustcls.attacks._targets import choose_targets
from robustcls.attribution import explain_counted, not_finite
from robustcls.attribution.measures.trust import explain_metrics as explain_metrics
from robustcls.core import plugins
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.draws import SampleGenerator
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.options import parse_n
from robustcls.core.progress import follow, show_attacks
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes, takes_target, traits_of
from robustcls.data.splits import load_split
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.plan import choose_attacks, make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.models import loading
from robustcls.models.checkpoint import Arch
from robustcls.reporting.render import report as report
from robustcls.results.records import Evaluation
from robustcls.runtime.device import resolve_batch_size
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import predict, told

TARGETS = 1  # names the random numbers that choose the targets
Attack = str | Callable[..., Tensor]  # a spec such as "pgd(steps=20)", or a function (model, x, y, threat) -> x_adv


def load(
    spec: str | Path,
    *,
    arch: Arch | None = None,
    classes: Sequence[str] = (),
    input_size: Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> nn.Module:
    """Load a model, in eval mode: pixels in [0, 1], N,C,H,W, to logits N,K. It takes whatever `--model` takes.

    Args:
        spec: a checkpoint of ours, which knows the rest; a state dict, which needs `arch` and `input_size`;
            `torchvision/NAME`, `timm/NAME`; `FILE.onnx`; `package.module:callable`.
        arch: the architecture of a state dict, such as `vgg16(width=0.25)`, a function of (num_classes, input_size) that
            makes it, or the network itself, whose weights are replaced. A checkpoint whose architecture is code, such as
            `mylab.nets:net`, runs that code only where `arch` names it, or is it.
        classes: names of the outputs, in order.
        input_size: (C, H, W).
        mean, std: of pixels in [0, 1], one value or one per channel; put in front of foreign weights, or of the module.

    Raises:
        InputError: for what cannot be read or built, and where classes or input_size contradict what the model says of
            itself. What was assumed, chosen or not used is a UserWarning.

    Example:
        >>> model = robustcls.load("runs/digits-vgg16-pgd/ckpt.pt")
        >>> model = robustcls.load("weights.pt", arch="vgg16", input_size=(3, 32, 32), mean=0.5, std=0.25)
    """
    loaded = loading.load(str(spec), arch=arch, classes=tuple(classes), input_size=input_size, mean=mean, std=std)
    for note in loaded.notes:
        warnings.warn(note, stacklevel=2)
    return loaded.model.eval()


def load_data(
    spec: str,
    split: str = "test",
    n: int | str | None = 1000,
    *,
    seed: int = 0,
    data_dir: str | Path | None = None,
    skip_corrupt: bool = False,
    limit_train: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Load images and labels of a data set: float32 N,C,H,W in [0, 1] and int64 N, on the CPU.

    Args:
        spec: `digits` (embedded), `cifar10`, `cifar100`, `svhn`, `fashion_mnist`, `folder:PATH`, `folder:PATH(size=64)`, or
            `package.module:callable`.
        split: `train`, `val` or `test`. Where the data set has no validation split of its own, val is held out of train.
        n: how many, of each class its share of the split, in file order; `all` or None for all.
        seed: of the split between train and val.
        data_dir: where downloaded data sets lie.
        skip_corrupt: skip images of a folder that cannot be read.
        limit_train: of split train, a random subset with the same share of each class.

    Raises:
        InputError: for data that is unknown, missing or cannot be read.

    Example:
        >>> images, labels = robustcls.load_data("digits", split="test", n=100)
    """
    chosen = load_split(
        spec,
        split,
        seed=seed,
        data_dir=None if data_dir is None else str(data_dir),
        skip_corrupt=skip_corrupt,
        limit_train=limit_train,
        n=None if n is None else parse_n(n),
    )
    return chosen.batch()


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel | str,
    attack: Attack = "pgd(steps=20)",
    *,
    target: int | str | Tensor | Sequence[int] | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    index: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """Run one attack and return what it made of the images: x_adv, float32 N,C,H,W in [0, 1], on the images' device.

    Nothing is verified here: a sample that withstands the attack comes back as its strongest attempt, or as the attack
    leaves it. Attacks that look for the nearest example (`fmn`, `ddn`, `deepfool`, `cw`) may leave the ball.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels.
        images: float N,C,H,W in [0, 1], on any device.
        labels: whole numbers N, counted from 0.
        threat: a ThreatModel, or text such as `linf:8/255`.
        attack: a spec, or a function `(model, x, y, threat, *, generator=None) -> x_adv`, also a functools.partial of one.
            See `robustcls list attack`.
        target: the class that the model shall give: one for all samples or one per sample; `random`, `least_likely` or
            `second` (the runner-up); None for any other than the label. A sample of the target class is left as it is.
        batch_size: images at a time; the result depends on it by rounding alone, for each image has its own random numbers.
        seed: of these.
        index: N whole numbers that name the images, on which with the seed their random numbers depend; their places
            unless given.
        progress: show progress on stderr.

    Raises:
        InputError: for images, labels, attacks or options that do not fit, and for a target where the attack has none.

    Example:
        >>> x_adv = robustcls.attack(model, images, labels, "linf:8/255", "pgd(steps=20)")
        >>> (model(x_adv).argmax(1) == labels).float().mean()
    """
    ball = _threat_model(threat)
    check_images(images, labels, input_size_of(model))
    named, function = plugins.parse("attack", attack), plugins.load("attack", attack)
    ball.check_options(str(named), plugins.resolved("attack", attack))
    ball.check_eps(images.shape[1:])
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
        aims = None
        if target is not None:
            if not takes_target(function):
                raise InputError(
                    f"{named} cannot aim at a class: leave out `target`, or take an attack that can, such as pgd"
                )
            draws = SampleGenerator.of(index, mix(seed, TARGETS), device)
            aims = choose_targets(target, predict(fp32, x, size).to(device), y, draws)
        more: dict[str, Any] = {"others": others_of(x, y, index)} if takes(function, "others") else {}
        found = []
        for rows in follow(torch.arange(len(x)).split(size), str(named), show=progress):
            if takes(function, "generator"):
                more["generator"] = SampleGenerator.of(index[rows], seed, device)
            if aims is not None:
                more["target"] = aims[rows]
            found.append(function(fp32, x[rows], y[rows], ball, **more).detach().float())
        x_adv = torch.cat(found)
        if aims is not None:
            x_adv = x.where((aims == y).view(-1, 1, 1, 1), x_adv)
        return x_adv.to(images.device)


def evaluate(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    threat: ThreatModel | str | None = None,
    suite: str | None = None,
    attacks: Attack | Sequence[Attack] | None = None,
    *,
    batch_size: int | str = "auto",
    precision: str = "auto",
    alone: bool = False,
    seed: int = 0,
    name: str = "",
    positive: str | int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure clean and robust accuracy under attacks that run in order; robust accuracy is an empirical upper bound.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels. Of one that gives a mapping, a tuple, an object with
            `.logits`, or one logit for two classes, a warning says which part was taken.
        images: float N,C,H,W in [0, 1], on any device; or an iterable of (images, labels), such as a DataLoader.
        labels: whole numbers N, counted from 0; None where `images` is an iterable that holds them.
        threat: a ThreatModel, or text such as `linf:8/255`.
        suite: a named list of attacks: `fast` (the default) or `standard`.
        attacks: instead, attacks run in order, each on the samples that are still correct: specs such as `pgd(steps=20)`.
        batch_size: images at a time.
        precision: `auto` (fp32), `fp32`, `bf16` or `fp16`: for speed alone; an adversarial example counts only when the fp32
            model misclassifies it.
        alone: every attack meets every sample, so that attacks can be compared.
        seed: of everything random.
        name: of the model, in the record.
        positive: of two classes, the one that sensitivity is about, by its label or name; the second unless given.
        progress: show progress on stderr.

    Raises:
        InputError: for a model, data, attacks or options that do not fit.

    Example:
        >>> result = robustcls.evaluate(model, loader, threat="linf:8/255", attacks=["pgd(steps=20)"])
        >>> result.robust.accuracy, result.robust.ci95
        >>> result.save("evaluation.json")
    """
    ball = _threat_model(threat)
    x, y = _collect(images, labels)
    for one in choose_attacks(attacks, suite, ball.norm)[0]:  # before the model is asked
        ball.check_options(one.text, one.options)
    subject = make_subject(model, x, y, ball, name=name)
    plan = make_plan(
        subject, attacks, suite,
        alone=alone, batch_size=batch_size, precision=precision, seed=seed, positive=positive,
    )  # fmt: skip
    result = evaluate_subject(subject, plan, progress=show_attacks() if progress else None)
    result.examples = result.examples.to(x.device)
    return result


def explain(
    model: nn.Module,
    images: Tensor,
    target: int | Tensor | Sequence[int] | None = None,
    method: str | Callable[..., Tensor] = "integrated_gradients",
    *,
    batch_size: int | str | None = "auto",
    seed: int = 0,
    reference: Tensor | None = None,
    background: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """Attribution maps of the target class's logit, float32 on the images' device: N,C,H,W, or N,H,W from methods on a grid.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels.
        images: float N,C,H,W in [0, 1], on any device.
        target: one class for all images, or one per image; None takes each image's predicted class.
        method: a spec such as `integrated_gradients(steps=64, baseline="mean")`, or a function `(model, x, target) -> maps`.
            See `robustcls list attribution`.
        batch_size: images at a time.
        seed: of methods that draw; every image has the same draws.
        reference: the images N,C,H,W that superpixels are made of, where `images` are their adversarial versions.
        background: baselines M,C,H,W of the SHAP methods, in place of each image's own black, mean and blur.
        progress: show progress on stderr.

    Raises:
        InputError: for images, targets, methods or options that do not fit. Entries that are not finite become 0, with a
            UserWarning that says in how many maps.

    Example:
        >>> maps = robustcls.explain(model, images, target=labels, method="gradcam")
    """
    maps, odd = explain_counted(
        model, images, target, method,
        batch_size=batch_size, seed=seed, reference=reference, background=background, progress=progress,
    )  # fmt: skip
    if said := not_finite(odd):
        warnings.warn(f"{plugins.parse('attribution', method)}: {said}", stacklevel=2)
    return maps.to(images.device)


def _threat_model(threat: ThreatModel | str | None) -> ThreatModel:
    if isinstance(threat, str):
        return ThreatModel.parse(threat)
    if not isinstance(threat, ThreatModel):
        raise InputError(f'threat {threat!r:.40} is no threat model: give `threat`, such as `threat="linf:8/255"`')
    return threat


def _collect(images: Tensor | Iterable[Any], labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors: as they are given, or of all batches, or samples, of an iterable."""
    if labels is not None:
        return images, labels  # type: ignore[return-value]  # what is wrong with them is found where they are checked
    if isinstance(images, Tensor):
        raise InputError("the images have no labels: give `labels`, or an iterable of (images, labels) for both")
    batches = []
    for number, batch in enumerate(images):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            what = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise InputError(f"batch {number} of the data is {what}: give an iterable of (images, labels)")
        x, y = batch[0], torch.as_tensor(batch[1])
        # A data set gives one sample at a time.
        batches.append((x[None], y[None]) if x.ndim == 3 and y.ndim == 0 else (x, y))
    if not batches:
        raise InputError("the data holds no batch: give an iterable of (images, labels) that is not used up")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
