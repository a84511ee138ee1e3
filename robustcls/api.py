"""The public functions: what `robustcls` offers in Python, and what the commands call.

After the model, the images, the labels and the threat model, options are keywords; they are named as the flags of the
commands, mean the same and have the same defaults. Any `torch.nn.Module` is taken on any device and in any mode, and its
mode, parameters, gradients and buffers are left exactly as they were.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy import ndarray
from torch import Tensor, nn

from robustcls.attacks._run import run_attack
from robustcls.attacks._targets import Target
from robustcls.attribution import explain as explain
from robustcls.attribution.measures.trust import explain_metrics as explain_metrics
from robustcls.auditing.run import audit as audit
from robustcls.choosing.choose import choose as choose
from robustcls.core.errors import InputError
from robustcls.core.options import parse_n
from robustcls.core.threat import ThreatModel
from robustcls.data.images import collect
from robustcls.data.splits import load_split
from robustcls.deploy.artefact import export as export
from robustcls.evaluation import tensor_evaluation
from robustcls.evaluation.certify import certify as certify
from robustcls.models import loading
from robustcls.models.checkpoint import Arch
from robustcls.reporting.render import report as report
from robustcls.results.records import Evaluation
from robustcls.training import train as training
from robustcls.training.label import label as label

Attack = str | Callable[..., Tensor]  # a spec such as "pgd(steps=20)", or a function (model, x, y, threat) -> x_adv


def load(
    spec: str | Path,
    *,
    arch: Arch | None = None,
    classes: Sequence[str] = (),
    input_size: Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    twin: str | Path | None = None,
) -> nn.Module:
    """Load a model, in eval mode: pixels in [0, 1], N,C,H,W, to logits N,K. It takes whatever `--model` takes.

    Args:
        spec: a checkpoint of ours, which knows the rest; a state dict, which needs `arch` and `input_size`;
            `torchvision/NAME`, `timm/NAME`; `FILE.onnx`; `package.module:callable`; `http://HOST:PORT/v2/models/NAME` of a
            running service, which sees images rounded to 8 bits.
        arch: the architecture of a state dict, such as `vgg16(width=0.25)`, a function of (num_classes, input_size) that
            makes it, or the network itself, whose weights are replaced. A checkpoint whose architecture is code, such as
            `mylab.nets:net`, runs that code only where `arch` names it, or is it.
        classes: names of the outputs, in order.
        input_size: (C, H, W).
        mean, std: of pixels in [0, 1], one value or one per channel; put in front of foreign weights, or of the module.
        twin: of a service, the artefact or checkpoint whose gradients stand in for its own; the logits are the service's.

    Raises:
        InputError: for what cannot be read or built, and where classes or input_size contradict what the model says of
            itself. What was assumed, chosen or not used is a UserWarning.

    Example:
        >>> model = robustcls.load("runs/digits-vgg16-pgd/ckpt.pt")
        >>> model = robustcls.load("weights.pt", arch="vgg16", input_size=(3, 32, 32), mean=0.5, std=0.25)
    """
    loaded = loading.load(
        str(spec), arch=arch, classes=tuple(classes), input_size=input_size, mean=mean, std=std,
        twin=None if twin is None else str(twin),
    )  # fmt: skip
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


def train(
    *,
    data: str | training.Data | Iterable[Any] | None = None,
    arch: Arch | None = None,
    adv: Attack | None = None,
    epochs: int | None = None,
    norm: str | None = None,
    eps: float | str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> training.RunResult:
    """Train a classifier, adversarially or not; write a run folder. What is not given comes from the data set's recipe.

    Under torchrun the processes share each batch.

    Args:
        data: a spec, as of `load_data`, `digits` unless given; (images, labels), float N,C,H,W in [0, 1] or uint8 and whole
            numbers N, -100 where an image has no label, or an iterable of such batches; or two Images. Validation images are
            held out, unless there are two.
        arch: `vgg16` unless given, or another spec; a function of (num_classes, input_size) that makes a module on [0, 1]
            pixels; or the module itself, of which a copy is trained.
        adv: the inner attack, such as `pgd(steps=3)`, or a function `(model, x, y, threat, *, generator=None) -> x_adv`;
            `none` for plain training.
        epochs: passes over the training images.
        norm, eps: the threat model of training.
        out: the run folder; `runs/<data>-<arch>-<adv>-<time>` unless given.
        resume: instead of all options, the folder of a run that goes on; `data`, `arch` and `adv` where they were objects.
        progress: show progress on stderr.
        options: the other options of `robustcls train`, such as `objective`, `lr`, `batch_size`, `seed`, `ema`; its `--help`
            lists them. Batch and rate are cut for few images unless given, as `.remark` of the result says. For data
            without a recipe, a UserWarning says which `eps` and `augment` were taken.

    Returns:
        run: `run.model`, the best by validation, in eval mode; `run.history`, a record of each epoch; `run.folder`.

    Raises:
        InputError: for options, data or a model that cannot be trained, before anything is written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the state is saved, and `resume` goes on.

    Example:
        >>> run = robustcls.train(data=(images, labels), arch=net, adv="pgd(steps=3)", epochs=10, out="runs/mine")
        >>> run.model(images).argmax(1), run.history[-1].val_robust
    """
    named = {"epochs": epochs, "norm": norm, "eps": eps, "out": out, **options}
    return training.train_from_python(data, arch, adv, named, resume=resume, progress=progress)


def attack(
    model: nn.Module,
    images: Tensor | ndarray,
    labels: Tensor | ndarray,
    threat: ThreatModel | str,
    attack: Attack = "pgd(steps=20)",
    *,
    target: Target | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    index: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """Run one attack and return what it made of the images: x_adv, float32 N,C,H,W in [0, 1], on the images' device.

    Nothing is verified here: a sample that withstands the attack comes back as the attack leaves it. Attacks that look for
    the nearest example (`fmn`, `ddn`, `deepfool`, `cw`) may leave the ball; of others, and of pixels outside [0, 1], a
    UserWarning says how many images leave it and how far. Of a service, `images` and x_adv are rounded to the 8 bits that are
    sent, x_adv inside the ball.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array.
        labels: whole numbers N, counted from 0.
        threat: a ThreatModel, or text such as `linf:8/255`.
        attack: a spec, or a function `(model, x, y, threat, *, generator=None) -> x_adv`, also a functools.partial of one.
            See `robustcls list attack`.
        target: the class that the model shall give: one for all samples, by number or name, or one per sample; `random`,
            `least_likely` or `second` (the runner-up); None for any other than the label. Of one class for all, a sample of
            that class is left as it is; one per sample must not be the label.
        batch_size: images at a time; the result depends on it by rounding alone, for each image has its own random numbers.
        seed: of these.
        index: N whole numbers that name the images, on which with the seed their random numbers depend; their places
            unless given.
        progress: show progress on stderr.

    Raises:
        InputError: for images, labels, attacks, options, a target or what the attack gives that do not fit.

    Example:
        >>> x_adv = robustcls.attack(model, images, labels, "linf:8/255", "pgd(steps=20)")
        >>> (model(x_adv).argmax(1) == labels).float().mean()
    """
    x, y = collect(images, labels)
    return run_attack(
        model, x, y, _threat_model(threat), attack,
        target=target, batch_size=batch_size, seed=seed, index=index, progress=progress,
    )  # fmt: skip


def evaluate(
    model: nn.Module,
    images: Tensor | ndarray | Iterable[Any],
    labels: Tensor | ndarray | ThreatModel | str | None = None,
    threat: ThreatModel | str | None = None,
    suite: str | None = None,
    attacks: Attack | Sequence[Attack] | None = None,
    *,
    batch_size: int | str = "auto",
    seed: int = 0,
    name: str = "",
    resume: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Evaluation:
    """Measure clean and robust accuracy under attacks that run in order; robust accuracy is an empirical upper bound.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels. Of one that gives a mapping, a tuple, an object with
            `.logits`, or one logit for two classes, a warning says which part was taken.
        images: float N,C,H,W in [0, 1], a tensor or NumPy array; or an iterable of (images, labels), such as a DataLoader.
        labels: whole numbers N, counted from 0; left out where `images` is an iterable that holds them.
        threat: a ThreatModel, or text such as `linf:8/255`.
        suite: a named list of attacks: `fast` (the default), `standard`, `verdict`, `targeted`, or `rand` for a random model.
        attacks: instead, attacks run in order, each on the samples that are still correct: specs such as `pgd(steps=20)`,
            suites, or functions `(model, x, y, threat, *, generator=None) -> x_adv`. Whatever these do to the model is undone.
        batch_size: images at a time.
        seed: of everything random.
        name: of the model, in the record.
        resume: a folder that keeps what is done, so that the same call goes on from there if this one is cut off; removed
            at the end.
        progress: show progress on stderr.
        options: those of `robustcls attack` and `robustcls report`, by the names of their flags:
            target: as of `attack`: success is that class alone, and robust accuracy counts every other answer as robust;
            `.targeted` has the share that reached it. Samples of one class for all are left out. suite: `targeted` unless
            given.
            each_alone: every attack meets every sample, so that attacks can be compared.
            eps_grid: radii of a security curve, or `auto`.
            checks: `passive` (the default: no attack, or a short one on few samples), `all`, or functions of your own.
            transfer_from: a model, or the spec of one, on which the examples are crafted.
            mask: pixels that may change, a bool tensor H,W or an image file. eight_bit: examples count as rounded to 8 bits.
            detector: a function of images and logits that gives N scores, or its spec, beside the model: answers whose score is
            above a threshold are refused. fpr: share of `held_out`, clean images N,C,H,W, above it.
            certificates: what `robustcls.certify` returned for the same model and images: `.certified` of the result, beside
            the attacks, which are held to them by the check `certificates`.
            precision: `auto` (bf16 where it is faster), `fp32`, `bf16`, `fp16`: for speed alone; an adversarial example
            counts only when the fp32 model misclassifies it. compile: of the model, by torch.compile.
            positive: of two classes, the one that sensitivity is about, by its label or name; the second unless given.
            tree: a TOML file with a tree of the classes, by which mistakes are far or near (`.severity`).
            data_note, intended_use, license: are kept in the record.
            examples, maps_n, curves_n, minimum_n, corruptions_n: samples of a gallery, of measures of attribution maps, of
            curves in other norms, of minimum perturbations, under common corruptions: none unless given. method: specs of
            attribution methods, for the first two. corruptions_from: a folder of published corrupted images.
            profile: `quick`, `standard` or `full`: what `robustcls report` measures under it; options win over it. minutes:
            the time that all of it may take.

    Returns:
        The record, which prints in a few lines; `.examples` has x, x_adv, y, success (False where the clean image is
        misclassified), distance and broken_by of all samples, on the images' device; `.examples.save(path)` writes the
        adversarial ones as `--save-examples` does.

    Raises:
        InputError: for a model, data, attacks or options that do not fit.

    Example:
        >>> result = robustcls.evaluate(model, loader, threat="linf:8/255", attacks=["pgd(steps=20)", my_attack])
        >>> result.robust.accuracy, result.robust.ci95, result.examples.x_adv[result.examples.success]
        >>> result.save("evaluation.json")
        >>> robustcls.evaluate(model, loader, threat="linf:8/255", profile="quick", corruptions_n=50).corruptions.mean
    """
    if isinstance(labels, (str, ThreatModel)):  # evaluate(model, loader, "linf:8/255")
        if threat is not None:
            raise InputError(f"labels are {labels!s:.40}, and `threat` is given: give the labels, or one of the two")
        labels, threat = None, labels
    if not isinstance(model, nn.Module):
        raise InputError(f"model {model!r:.40} is no torch.nn.Module: `robustcls.load` makes one of a file or a name")
    x, y = collect(images, labels)
    if isinstance(source := options.get("transfer_from"), str | Path):
        options["transfer_from"] = load(source, input_size=x.shape[1:])
    return tensor_evaluation.evaluate_tensors(
        model, x, y, _threat_model(threat), attacks, suite, options,
        batch_size=batch_size, seed=seed, name=name, resume=resume, progress=progress,
    )  # fmt: skip


def _threat_model(threat: ThreatModel | str | None) -> ThreatModel:
    if isinstance(threat, str):
        return ThreatModel.parse(threat)
    if not isinstance(threat, ThreatModel):
        raise InputError(f'threat {threat!r:.40} is no threat model: give `threat`, such as `threat="linf:8/255"`')
    return threat
