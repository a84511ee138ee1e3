"""Predictions for every training image by a model that was not trained on it."""

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
FORBIDDEN = {  # of a recipe; images without labels might be copies of those that a fold holds out
    "data", "arch", "adv", "objective", "step", "minutes", "epochs", "out", "limit_train", "seed", "unlabelled",
    "pseudo_labels",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Of N training images: predictions, and the models that made them.

    Attributes:
        probabilities: float32 N,K.
        fold: int64 N, which model predicted the image.
        models: one a fold, in eval mode: what predicted is what is attacked.
        epochs: of each.
    """

    probabilities: Tensor
    fold: Tensor
    models: Sequence[nn.Module]
    epochs: Sequence[int]


class Mirrored(Wrapper):
    """A model whose probabilities are the mean of those of an image and of its mirror image, as logits."""

    repeats = 2

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "mirrored({})")

    def forward(self, x: Tensor) -> Tensor:
        logs = [
            logits_of(self.model(view)).log_softmax(1) for view in (x.clone(), x.flip(3))
        ]  # some models write on it
        return mean_probabilities(logs)


def divide(labels: Tensor, folds: int, seed: int, together: Sequence[Group] = ()) -> Tensor:
    """The fold of each image, int64 N: of every class equal parts, drawn by seed.

    together: duplicates, which go into one fold: else a model would be asked about what it has seen. Raises InputError
    where a class has too few images for every fold to have some to predict and some to train on.
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
    """Raises InputError where a fold lacks images of a class, or leaves too few to train on."""
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
    """Trains a model on the images outside each fold, without an attack, and predicts those inside it.

    fold: N, as of `divide`. minutes: called with the number of folds left, the minutes that the next model has; of no use
    where config.epochs is given. What selects a model's epoch is held out of the images that it is trained on.
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
        mirrors = images.flip and "flip" in options.augment  # it was trained on both
        model = Mirrored(trained) if mirrors else trained
        rows = inside.nonzero().squeeze(1)
        probabilities[rows] = probabilities_of(model, images.take(rows))
        models.append(model)
        epochs.append(passes)
    return OutOfFold(probabilities, fold, models, epochs)


def fold_options(config: AuditConfig, number: int = 0) -> tuple[TrainConfig, set[str]]:
    """The options of training of a fold's model, and which of them are fixed, whatever the number of images.

    Raises InputError for a recipe that chooses what the audit chooses.
    """
    recipe = read_toml(config.recipe, "`recipe`") if config.recipe else {}
    if taken := sorted(FORBIDDEN & recipe.keys()):
        raise InputError(f"{config.recipe}: the audit itself chooses {', '.join(taken)}: leave it out of the recipe")
    named = ("data", "arch", "norm", "eps", "device", "precision", "batch_size", "epochs")
    given = {name: value for name in named if (value := getattr(config, name)) is not None}
    plain = {"adv": "none", "val_attack": "none", "quiet": True, "seed": mix(config.seed, number)}
    return configure(given | plain, recipe), {*given, *recipe}


def train_on(
    images: Images, options: TrainConfig, given: Container[str] = (), *, progress: bool = False
) -> tuple[Classifier, int]:
    """A model of a part of the images, in eval mode, and its epochs; nothing is left on disk."""
    with tempfile.TemporaryDirectory(prefix="robustcls-audit-") as folder:
        options.out = str(Path(folder) / "run")
        run = train(options, data=hold_out(images, seed=options.seed), given=given, progress=progress)
        model = run.model.eval()
    return model, len(run.history)


def probabilities_of(model: nn.Module, images: Images) -> Tensor:
    """float32 N,K on the CPU."""
    parts = []
    for rows in torch.arange(len(images)).split(AT_ONCE):
        x, _ = images.batch(rows)
        parts.append(predict(model, x, AT_ONCE).softmax(1))
    return torch.cat(parts)
