"""The public Python functions of `robustcls`, which the commands call, too.

After the model, the images, the labels and the threat model, all arguments are keyword arguments. They have the names,
the meanings and the defaults of the commands' options. A model may be any `torch.nn.Module`, on any device and in any
mode. Its mode, parameters, gradients and buffers are left exactly as they were.
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
    """Load a model in eval mode. It maps images N,C,H,W with values in [0, 1] to logits N,K.

    Args:
        spec: anything that the option `--model` accepts: a robustcls checkpoint, which needs no other argument; a state
            dict, which needs `arch` and `input_size`; `torchvision/NAME` or `timm/NAME`; `FILE.onnx`;
            `package.module:callable`; or `http://HOST:PORT/v2/models/NAME` of a running service, which receives images
            rounded to 8 bits.
        arch: the architecture of a state dict: a spec such as `vgg16(width=0.25)`, a function of (num_classes, input_size)
            that builds the network, or the network itself, whose weights are replaced. If the architecture of a checkpoint
            is user code, such as `mylab.nets:net`, that code runs only if `arch` is that name or that function.
        classes: names of the outputs, in order.
        input_size: (C, H, W).
        mean, std: mean and standard deviation of pixels in [0, 1], one value or one per channel. The model then normalises
            its input with them; for weights that robustcls did not train, or for a module.
        twin: for a service, the artefact or checkpoint whose gradients replace the missing gradients of the service. The
            logits are those of the service.

    Raises:
        InputError: if the model cannot be read or built, or if `classes` or `input_size` contradict the model's own
            information. Assumptions, choices and unused parts are reported as a UserWarning.

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
    """Load images, float32 N,C,H,W in [0, 1], and labels, int64 N, of a data set, on the CPU.

    Args:
        spec: `digits` (embedded), `cifar10`, `cifar100`, `svhn`, `fashion_mnist`, `folder:PATH`, `folder:PATH(size=64)`, or
            `package.module:callable`.
        split: `train`, `val` or `test`. If the data set has no validation split, `val` is held out of the training split.
        n: number of samples, drawn in proportion to the classes of the split, in file order; `all` or None for all samples.
        seed: seed of the split into train and val.
        data_dir: folder of downloaded data sets.
        skip_corrupt: skip images of a folder that cannot be read.
        limit_train: size of a random subset of the training split, with the same class proportions.

    Raises:
        InputError: if the data set is unknown, missing or cannot be read.

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
    """Train a classifier, adversarially or not, and write a run folder.

    Options that you do not set come from the data set's recipe. Under torchrun, the processes share each batch.

    Args:
        data: a spec, as for `load_data` (default: `digits`); or a pair (images, labels), with images float N,C,H,W in
            [0, 1] or uint8, and labels whole numbers N, -100 for an image without a label; or an iterable of such
            batches; or two Images, for training and validation. Unless you pass two, validation images are held out.
        arch: a spec (default: `vgg16`); a function of (num_classes, input_size) that returns a module on [0, 1] pixels;
            or the module itself, of which a copy is trained.
        adv: the inner attack, such as `pgd(steps=3)`, or a function `(model, x, y, threat, *, generator=None) -> x_adv`;
            `none` for training without an attack.
        epochs: passes over the training images.
        norm, eps: the threat model of training.
        out: the run folder (default: `runs/<data>-<arch>-<adv>-<time>`).
        resume: the folder of an interrupted run to continue, in place of all other options. Pass `data`, `arch` and `adv`
            again if they were objects.
        progress: show progress on stderr.
        options: the other options of `robustcls train`, such as `objective`, `lr`, `batch_size`, `seed`, `ema`; see
            `robustcls train --help`. For few images, the batch size and the learning rate are reduced unless you set
            them; `.remark` of the result reports it. For data without a recipe, a UserWarning reports the `eps` and
            `augment` that were assumed.

    Returns:
        run: with `run.model`, the best model by validation, in eval mode; `run.history`, one record per epoch; `run.folder`.

    Raises:
        InputError: if the options, the data or the model cannot be used for training; raised before anything is written.
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the state is saved, and `resume` continues the run.

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
    """Run one attack and return the perturbed images x_adv, float32 N,C,H,W in [0, 1], on the device of `images`.

    Nothing is verified here: for a sample that withstands the attack, the attack's last attempt is returned. Attacks that
    search for the nearest adversarial example (`fmn`, `ddn`, `deepfool`, `cw`) may leave the ball. For other attacks a
    UserWarning reports how many images leave the ball or [0, 1], and how far. If the model is a service, `images` and
    x_adv are rounded to the 8 bits that are sent, and x_adv stays inside the ball.

    Args:
        model: any module that maps images with values in [0, 1] to logits N,K.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array.
        labels: whole numbers N, counted from 0.
        threat: a ThreatModel, or text such as `linf:8/255`.
        attack: a spec (see `robustcls list attack`), or a function `(model, x, y, threat, *, generator=None) -> x_adv`, or
            a functools.partial of such a function.
        target: the class that the model is to predict: one class for all samples, by number or name; one class per sample;
            or `random`, `least_likely` or `second` (the runner-up). None: any class other than the label. With one class
            for all, samples of that class are left unchanged. With one class per sample, it must not be the label.
        batch_size: images at a time. It changes the result only by rounding, since each image has its own random numbers.
        seed: seed of the random numbers.
        index: N whole numbers that identify the images (default: their positions). The random numbers of an image depend
            on the seed and on this number.
        progress: show progress on stderr.

    Raises:
        InputError: if the images, labels, attack, options or target are invalid, or if the attack returns something else
            than images.

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
    """Measure clean and robust accuracy under attacks that run in order. Robust accuracy is an empirical upper bound.

    Args:
        model: any module that maps images with values in [0, 1] to logits N,K. If it returns a mapping, a tuple, an object
            with `.logits`, or one logit for two classes, a warning reports which part is used.
        images: float N,C,H,W in [0, 1], a tensor or NumPy array; or an iterable of (images, labels), such as a DataLoader.
        labels: whole numbers N, counted from 0; leave them out if `images` is an iterable that contains them.
        threat: a ThreatModel, or text such as `linf:8/255`.
        suite: a named list of attacks: `fast` (the default), `standard`, `verdict`, `targeted`, or `rand` for a random model.
        attacks: attacks in place of a suite, run in order, each on the samples that are still classified correctly: specs
            such as `pgd(steps=20)`, names of suites, or functions `(model, x, y, threat, *, generator=None) -> x_adv`. All
            changes that such a function makes to the model are undone.
        batch_size: images at a time.
        seed: seed of everything random.
        name: name of the model in the record.
        resume: a folder for intermediate results, from which the same call continues after an interruption. It is removed
            at the end.
        progress: show progress on stderr.
        options: options of `robustcls attack` and `robustcls report`, named like their flags:
            target: as for `attack`. Only the target class counts as success, and robust accuracy counts every other
            prediction as robust; `.targeted` has the share of samples that reached the target. With one class for all,
            samples of that class are left out. The default suite is then `targeted`.
            each_alone: run every attack on every sample, so that attacks can be compared.
            eps_grid: radii of a security curve, or `auto`.
            checks: `passive` (the default: no attacks, or short ones on few samples), `all`, or your own functions.
            transfer_from: a model, or its spec, on which the adversarial examples are crafted.
            mask: the pixels that may change, a bool tensor H,W or an image file. eight_bit: round examples to 8 bits.
            detector: a function of images and logits that returns N scores, or its spec; predictions whose score exceeds
            a threshold are rejected. fpr: share of `held_out`, clean images N,C,H,W, that the threshold rejects.
            certificates: the result of `robustcls.certify` for the same model and images. It becomes `.certified` of the
            result, and the check `certificates` compares the attacks with it.
            precision: `auto` (bf16 where it is faster), `fp32`, `bf16` or `fp16`, for speed only: an adversarial example
            counts only if the fp32 model misclassifies it. compile: compile the model with torch.compile.
            positive: the positive class of two, by label or name, for sensitivity (default: the second).
            tree: a TOML file with a tree of the classes, for the severity of errors (`.severity`).
            data_note, intended_use, license: texts that are stored in the record.
            examples, maps_n, curves_n, minimum_n, corruptions_n: numbers of samples for the gallery, for measures of
            attribution maps, for curves in other norms, for minimum perturbations and for common corruptions (default:
            not measured). method: specs of attribution methods, for the first two. corruptions_from: a folder of
            published corrupted images.
            profile: `quick`, `standard` or `full`: measure what `robustcls report` measures under this profile; options
            that you set override it. minutes: time limit for everything.

    Returns:
        The record, which prints in a few lines. `.examples` has x, x_adv, y, success (False where the clean image is
        misclassified), distance and broken_by of all samples, on the device of `images`; `.examples.save(path)` writes the
        adversarial ones as `--save-examples` does.

    Raises:
        InputError: if the model, the data, the attacks or the options are invalid.

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
