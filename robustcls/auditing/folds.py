"""Out-of-fold predictions: each training image is predicted by a model that was not trained on it."""

import tempfile
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcls.auditing.config import AuditConfig
from robustcls.auditing.duplicates import Group
from robustcls.core.classifier import Classifier
from robustcls.core.config import read_toml
from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper, logits_of, mean_probabilities
from robustcls.core.names import quoted
from robustcls.core.seeds import mix
from robustcls.core.subset import stratified_order
from robustcls.data.images import Images
from robustcls.data.splits import hold_out
from robustcls.runtime.predict import predict
from robustcls.training.config import TrainConfig
from robustcls.training.recipe import configure
from robustcls.training.train import train

AT_ONCE = 512  # images that are predicted at a time
MIXING = "mixup"  # on top of the augmentation; a model that is trained on mixed labels memorises fewer wrong ones
FORBIDDEN = {  # options that a recipe must not set; images without labels could be copies of held-out images
    "data", "arch", "adv", "objective", "step", "minutes", "epochs", "out", "limit_train", "seed", "unlabelled",
    "pseudo_labels",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions for N training images, and the models that made them.

    Attributes:
        probabilities: float32 N,K.
        fold: int64 N, the number of the model that predicted the image.
        models: one per fold, in eval mode; attacks run on the same models.
        epochs: training epochs of each model.
    """

    probabilities: Tensor
    fold: Tensor
    models: Sequence[nn.Module]
    epochs: Sequence[int]


class Mirrored(Wrapper):
    """A model that averages the probabilities for an image and its mirror image, and returns them as logits."""

    repeats = 2

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "mirrored({})")

    def forward(self, x: Tensor) -> Tensor:
        views = (x.clone(), x.flip(3))  # copies, since some models write to their input
        logs = [logits_of(self.model(view)).log_softmax(1) for view in views]
        return mean_probabilities(logs)


def divide(labels: Tensor, folds: int, seed: int, together: Sequence[Group] = ()) -> Tensor:
    """Return the fold of each image, int64 N. Each class is divided into equal parts at random.

    together: groups of duplicates, which are put into the same fold, because otherwise a model would predict images that it
    was trained on.
    """
    order = stratified_order(labels, seed)
    fold = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.unique().tolist():
        rows = order[labels[order] == label]
        fold[rows] = (torch.arange(len(rows)) + label) % folds
    for group in together:
        fold[list(group.rows)] = fold[group.rows[0]].clone()
    return fold


def check_folds(images: Images, fold: Tensor, folds: int) -> None:
    """Raise InputError if a fold has no image of a class, or if too few images remain outside of it for training."""
    for label, name in enumerate(images.classes):
        counts = fold[images.labels == label].bincount(minlength=folds)
        if counts.min() < 1 or counts.sum() - counts.max() < 2:
            raise InputError(
                f"data {images.name}: class {quoted(name)} has {int(counts.sum())} training images, too few different ones "
                f"for {folds} folds: give it {2 * folds} or more, or take the class out"
            )


def out_of_fold(
    images: Images, fold: Tensor, config: AuditConfig, *, minutes: Callable[[int], float], progress: bool = False
) -> OutOfFold:
    """Train one model per fold, without an attack, on the images outside the fold, and predict the images inside.

    fold: N, the result of `divide`. minutes: function from the number of remaining folds to the minutes for the next model;
    unused if config.epochs is set. The validation images that select a model's epoch are held out of its training images.
    """
    probabilities = torch.zeros(len(images), len(images.classes))
    models: list[nn.Module] = []
    epochs = []
    for number in range(config.folds):
        inside = fold == number
        options, given = fold_options(config, number)
        if config.epochs is None:
            options.minutes = max(minutes(config.folds - number), 1e-6)
        outside = images.take((~inside).nonzero().squeeze(1))
        trained, passes = train_on(outside, options, given, progress=progress)
        mirrors = images.flip and "flip" in options.augment  # the model was trained on mirror images, too
        model = Mirrored(trained) if mirrors else trained
        rows = inside.nonzero().squeeze(1)
        probabilities[rows] = probabilities_of(model, images.take(rows))
        models.append(model)
        epochs.append(passes)
    return OutOfFold(probabilities, fold, models, epochs)


def fold_options(config: AuditConfig, number: int = 0) -> tuple[TrainConfig, set[str]]:
    """Return the training options of a fold's model, and the names of those that are not adapted to the number of images.

    Unless the recipe sets `augment`, images are also mixed, because mixup reduces the memorisation of wrong labels (Zhang et
    al. 2018, arXiv:1710.09412). Raises InputError if the recipe sets an option that the audit sets itself.
    """
    recipe = read_toml(config.recipe, "`recipe`") if config.recipe else {}
    if taken := sorted(FORBIDDEN & recipe.keys()):
        raise InputError(f"{config.recipe}: the audit itself sets {', '.join(taken)}: leave it out of the recipe")
    named = ("data", "arch", "norm", "eps", "device", "precision", "batch_size", "epochs")
    given = {name: value for name in named if (value := getattr(config, name)) is not None}
    plain = {"adv": "none", "val_attack": "none", "quiet": True, "seed": mix(config.seed, number)}
    options = configure(given | plain, recipe)
    if "augment" not in recipe:
        options.augment = MIXING if options.augment == "none" else f"{options.augment}+{MIXING}"
    return options, {*given, *recipe}


def train_on(
    images: Images, options: TrainConfig, given: Container[str] = (), *, progress: bool = False
) -> tuple[Classifier, int]:
    """Train a model on some of the images. Returns it in eval mode with its number of epochs; nothing stays on disk."""
    with tempfile.TemporaryDirectory(prefix="robustcls-audit-") as folder:
        options.out = str(Path(folder) / "run")
        run = train(options, data=hold_out(images, seed=options.seed), given=given, progress=progress)
        model = run.model.eval()
    return model, len(run.history)


def probabilities_of(model: nn.Module, images: Images) -> Tensor:
    """Return the predicted probabilities, float32 N,K on the CPU."""
    parts = []
    for rows in torch.arange(len(images)).split(AT_ONCE):
        x, _ = images.batch(rows)
        parts.append(predict(model, x, AT_ONCE).softmax(1))
    return torch.cat(parts)
