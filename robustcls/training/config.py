"""The options of `robustcls train` and `robustcls.train`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core import plugins
from robustcls.core.config import option
from robustcls.core.errors import InputError
from robustcls.core.options import (
    MEAN,
    CompileOption,
    NormalisationOptions,
    RuntimeOptions,
    TrainingDataOptions,
    TrainingThreatOptions,
    parse_batch_size,
)
from robustcls.core.traits import traits_of

PYTHON = "python"  # value of `data` when the images are Python objects, which no spec can name
LEAST = {  # smallest allowed values
    "epochs": 1, "val_n": 1, "val_every": 1, "limit_train": 1, "accumulate": 1, "patience": 0, "save_every": 1,
    "track_images": 0,
}  # fmt: skip
BELOW = {"momentum": 1, "ema": 1, "swa": 1, "dropout": 1}  # exclusive upper bounds; other options have none


@dataclass(kw_only=True)
class TrainConfig(TrainingDataOptions, NormalisationOptions, TrainingThreatOptions, RuntimeOptions, CompileOption):
    """The options of a training run. `__post_init__` fills in defaults and raises InputError for invalid combinations."""

    GROUP: ClassVar[str] = "Optimisation"

    arch: str = option(
        "vgg16",
        "Architecture, such as vgg16(width=0.25) or torchvision/resnet18, with the data's mean and std in front of it; or "
        "module:callable, a function (num_classes, input_size) that returns a module for [0, 1] pixels.",
        metavar="SPEC",
        group="Model",
    )
    mean: str | None = option(
        None,
        f"{MEAN} Or the word data, for the training images' own mean.",
        metavar="M,M,M",
        group="Model",
    )
    init: str | None = option(
        None,
        "Initial weights: imagenet, for the pretrained weights of a torchvision/ or timm/ architecture, or a file of weights.",
        metavar="PATH",
        group="Model",
    )
    prune: str | None = option(
        None,
        "Remove channels of the initial weights before training, such as channels(ratio=0.5); see robustcls list prune.",
        metavar="SPEC",
        group="Model",
    )
    head: str = option(
        "linear",
        "Layers that compute the logits: linear, or hidden layers and K, such as 512-relu-K.",
        metavar="LAYERS",
        group="Model",
    )
    freeze: str = option(
        "none", "Weights to freeze: none, backbone, or N for the first N layers.", metavar="N", group="Model"
    )
    tune: str = option(
        "all",
        "Which of the initial weights to train: all, head, norm_bias, or lora(rank=4), which trains small matrices that are "
        "added to them.",
        metavar="SPEC",
        group="Model",
    )
    dropout: float = option(0.0, "Dropout probability of the head's inputs; 0 for no dropout.", group="Model")
    adv: str | None = option(
        None,
        "Inner attack: none, fgsm, n_fgsm, pgd(steps=3) ...  [default: the data set's recipe]",
        metavar="SPEC",
        group="Attack",
    )
    train_eps: float | str | None = option(
        None,
        "Radius of the inner attack, if it is another one than --eps, such as 12/255: a larger one costs clean accuracy.",
        metavar="EPS",
        group="Attack",
    )
    eps_ramp: str | None = option(
        None,
        "Increase the radius during the run: with 0.15-0.3, train on clean images for the first 15% of the run, and with the "
        "full radius from 30% on.",
        metavar="FROM-TO",
        group="Attack",
    )
    objective: str | None = option(
        None,
        "Loss to minimise, such as trades(beta=6).  [default: standard with --adv none, else adversarial]",
        metavar="SPEC",
    )
    step: str = option(
        "once", "Training step: once, free(replays=4), awp(gamma=0.005), sparse(density=0.1).", metavar="SPEC"
    )
    epochs: int = option(30, "Passes over the training images.")
    minutes: float = option(
        0.0,
        "Instead of --epochs: train for as many epochs as fit in this time, estimated from the first updates; 0 to use "
        "--epochs.",
    )
    optimizer: Literal["sgd", "adamw", "muon"] = option(
        "sgd", "SGD with Nesterov momentum, AdamW, or Muon, which is SGD with orthogonalised updates of convolutions."
    )
    lr: float = option(0.1, "Peak learning rate.")
    backbone_lr: float = option(1.0, "Learning rate of all layers except the head, as a fraction of --lr.")
    momentum: float = option(0.9, "Momentum of SGD and Muon, or the first beta of AdamW.")
    weight_decay: float = option(5e-4, "Weight decay; not applied to BatchNorm, biases and the matrices of lora.")
    schedule: str = option(
        "one_cycle",
        "Learning-rate schedule: one_cycle, cosine, piecewise, cyclic, constant.",
        metavar="SPEC",
    )
    clip: float = option(0.0, "Clip the norm of the gradients to this value; 0 for no clipping.")
    accumulate: int = option(
        1,
        "Split each batch into N parts and accumulate their gradients, to save memory.",
        metavar="N",
        group="Runtime",
    )
    augment: str = option(
        "crop_flip", "Augmentation, such as crop_flip+cutout; see robustcls list augment.", metavar="SPEC", group="Data"
    )
    ema: float = option(
        0.0,
        "Decay of an exponential moving average of the weights; the averaged weights are validated and saved; 0 for none.",
    )
    swa: float = option(
        0.0,
        "Fraction of the run after which the weights of each epoch are averaged (SWA); the averaged weights are validated "
        "and saved; 0 for none.",
    )
    limit_train: int | None = option(
        None, "Train on N images only, with the same class proportions.", metavar="N", group="Data"
    )
    unlabelled: str | None = option(
        None,
        "Also train on images without labels: folder:DIR, another data set, or rest, which stands for the images that "
        "--limit-train leaves out.",
        metavar="SPEC",
        group="Data",
    )
    unlabelled_share: float = option(
        0.5, "Fraction of each batch that is unlabelled images.", metavar="P", group="Data"
    )
    pseudo_labels: str | None = option(
        None, "Labels from robustcls label for the unlabelled images.", metavar="FILE", group="Data"
    )
    val_n: int = option(500, "Number of validation images, held out of the training set.", group="Data")
    val_every: int | None = option(
        None,
        "Validate every N epochs, and after the last one.  [default: as often as takes at most about a tenth of the "
        "training, but four times in a run]",
        metavar="N",
        group="Data",
    )
    val_attack: str = option(
        "pgd(steps=10)",
        "Attack that measures robust validation accuracy, or none to skip that measurement.",
        metavar="SPEC",
        group="Attack",
    )
    patience: int = option(
        0, "Stop after N epochs without a better validation accuracy; 0 to never stop early.", metavar="N"
    )
    on_collapse: Literal["stop", "rollback", "ignore"] = option(
        "stop",
        "On catastrophic overfitting: stop; or roll back to the last good epoch and halve the attack's step size; or ignore "
        "it.",
    )
    save_every: int | None = option(None, "Also write last.pt every N batches.", metavar="N", group="Output")
    cuda_graphs: bool = option(
        False,
        "Compile the inner attack's forward and backward passes and replay them as CUDA graphs.",
        group="Runtime",
    )
    deterministic: bool = option(False, "Use only deterministic operations, on CUDA too.", group="Runtime")
    track: tuple[str, ...] = option(
        (), "Also log to tensorboard or wandb (repeatable).", metavar="NAME", group="Output"
    )
    track_images: int = option(1, "Log images every N epochs; 0 for never.", metavar="N", group="Output")
    out: str | None = option(
        None, "Run folder.  [default: runs/<data>-<arch>-<adv>-<time>]", metavar="DIR", group="Output"
    )

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"`{name}={value}` is too small: give {least} or more")
        for name in ("minutes", "lr", "backbone_lr", "momentum", "weight_decay", "clip", "ema", "swa", "dropout"):
            value = getattr(self, name)
            if not (0 <= value < BELOW.get(name, float("inf"))):
                raise InputError(f"`{name}={value}` is out of range")
        if self.lr == 0:
            raise InputError("`lr=0` trains nothing: give a rate such as 0.1")
        if self.ema and self.swa:
            raise InputError("`ema` and `swa` are two averages of the weights: give one of them")
        if self.prune:
            plugins.load("prune", self.prune)  # so that a typo in the spec is reported at once
        plugins.load("tune", self.tune)
        if self.tune != "all" and self.freeze != "none":
            raise InputError(f'`tune="{self.tune}"` already says what is trained: leave out `freeze="{self.freeze}"`')
        parse_batch_size(self.batch_size)
        self.data = self.data or "digits"
        self.norm = self.norm or "linf"
        if self.eps is None and self.norm != "linf":
            raise InputError(f"norm {self.norm} has no default radius: give `eps`, such as `eps=0.5`")
        self.eps = "8/255" if self.eps is None else self.eps
        self.adv = "none" if self.makes_examples else self.adv or "pgd"
        plain = self.adv == "none" and not self.makes_examples
        self.objective = self.objective or ("standard" if plain else "adversarial")
        self.adv = self.adv if self.is_adversarial else "none"
        if self.val_attack == "none" and self.on_collapse == "rollback":
            raise InputError('`on_collapse="rollback"` needs robust validation accuracy: leave out `val_attack="none"`')
        self._check_unlabelled()
        if self.train_eps is not None and not self.is_adversarial:
            raise InputError(
                f"`train_eps={self.train_eps}` is the radius of an attack, and this run has none: give `adv`, or leave out "
                "`train_eps`"
            )
        if self.eps_ramp is not None:
            parse_ramp(self.eps_ramp)
            if not self.is_adversarial:
                raise InputError(
                    f"`eps_ramp={self.eps_ramp}` grows the radius of an attack, and this run has none: give `adv`, or "
                    "leave out `eps_ramp`"
                )
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"`seed={self.seed}` is out of range: give a number of at most 18 digits")

    def _check_unlabelled(self) -> None:
        if not 0 < self.unlabelled_share < 1:
            raise InputError(f"`unlabelled_share={self.unlabelled_share:g}` is out of range: give a share such as 0.5")
        if self.pseudo_labels and not self.unlabelled:
            raise InputError("`pseudo_labels` are labels for unlabelled images: name those images with `unlabelled`")
        if self.without_labels and not traits_of(plugins.load("objective", self.objective or "")).unlabelled:
            raise InputError(
                f"objective {self.objective} learns nothing from images without labels: give `objective=trades`, or "
                "`pseudo_labels=FILE.npz` from `robustcls label`"
            )

    @property
    def without_labels(self) -> bool:
        """Whether some training images have neither a label nor a pseudo-label."""
        return bool(self.unlabelled) and not self.pseudo_labels

    @property
    def makes_examples(self) -> bool:
        """Whether the training step makes the adversarial images itself, without the inner attack `adv`."""
        return traits_of(plugins.load("step", self.step)).makes_examples

    @property
    def is_adversarial(self) -> bool:
        """Whether the objective asks for adversarial images."""
        return traits_of(plugins.load("objective", self.objective or "standard")).attacks


def parse_ramp(text: str) -> tuple[float, float]:
    """Parse `0.15-0.3` into the fractions of the run at which the radius begins to grow and reaches its full size.

    Raises InputError.
    """
    begin, dash, end = text.partition("-")
    try:
        ramp = float(begin), float(end)
    except ValueError:
        ramp = (1.0, 0.0)
    if not (dash and 0 <= ramp[0] < ramp[1] <= 1):
        raise InputError(
            f"`eps_ramp={text}` is not a part of the run: give two fractions of it, such as `eps_ramp=0.15-0.3`"
        )
    return ramp
