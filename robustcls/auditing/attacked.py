"""Attacks on the fold models: class confusions under attack, and distances of images to the decision boundary."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustcls.attacks._run import run_attack
from robustcls.auditing.folds import OutOfFold
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.progress import Bar
from robustcls.core.subset import stratified_order
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.data.images import Images
from robustcls.runtime.predict import predict

AT_ONCE = 64  # images between two checks of the time limit


def check_attacks(attack: str, minimum: str, threat: ThreatModel) -> None:
    """Raise InputError if an attack is unknown or does not support the threat model. `none` means no attack."""
    for spec in (attack, minimum):
        if spec != "none":
            threat.check_options(spec, plugins.resolved("attack", spec))
            threat.check_known(spec, traits_of(plugins.load("attack", spec)))
    if minimum != "none" and not traits_of(plugins.load("attack", minimum)).minimum_norm:
        raise InputError(
            f"`minimum={minimum}` does not search for the nearest example: give one that does, such as fmn"
        )


def attacked_classes(
    images: Images, predictions: OutOfFold, threat: ThreatModel, attack: str, n: int, *, over: Callable[[], bool], seed: int,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the positions of at most n images, in proportion to the classes, and their predicted classes under attack.

    Each image is attacked on the model of its fold. over: whether the time is up; then fewer images are returned.
    """
    order = stratified_order(images.labels, seed)[:n]
    return _by_fold(order, predictions, over, attack, progress, lambda model, rows: _classes(
        model, images, rows, threat, attack, seed
    ))  # fmt: skip


def nearest_boundary(
    images: Images, predictions: OutOfFold, threat: ThreatModel, attack: str, n: int, *, over: Callable[[], bool], seed: int,
    progress: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return correctly classified images, sorted by the distance of the nearest adversarial example found.

    Returns their positions, the distances, and the predicted classes of the examples. The minimum-norm attack runs on the n
    images with the smallest margins, on the model of their fold. over: as for `attacked_classes`.
    """
    p, y = predictions.probabilities, images.labels
    margin = p.gather(1, y[:, None]).squeeze(1) - p.scatter(1, y[:, None], -1).amax(1)
    order = margin.where(p.argmax(1) == y, torch.inf).argsort(stable=True)[: min(n, int((p.argmax(1) == y).sum()))]
    rows, values = _by_fold(order, predictions, over, attack, progress, lambda model, some: _distances(
        model, images, some, threat, attack, seed
    ))  # fmt: skip
    if not len(rows):
        return rows, torch.empty(0), rows
    distance, classes = values[:, 0], values[:, 1].long()
    by_distance = distance.argsort(stable=True)
    by_distance = by_distance[distance[by_distance].isfinite()]
    return rows[by_distance], distance[by_distance], classes[by_distance]


def _by_fold(
    order: Tensor, predictions: OutOfFold, over: Callable[[], bool], label: str, progress: bool,
    measure: Callable[[torch.nn.Module, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Apply `measure` to the images in this order, each with the model of its fold, until the time is up."""
    rows, values = [order[:0]], []
    with Bar(len(order), label, "image", show=progress) as bar:
        for part in order.split(AT_ONCE):
            if over():
                break
            for number, model in enumerate(predictions.models):
                some = part[predictions.fold[part] == number]
                if len(some):
                    rows.append(some)
                    values.append(measure(model, some))
            bar.advance(len(part))
    return torch.cat(rows), torch.cat(values) if values else torch.empty(0, dtype=torch.int64)


def _attack(
    model: torch.nn.Module, images: Images, rows: Tensor, threat: ThreatModel, attack: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, y = images.batch(rows)
    x_adv = run_attack(
        model, x, y, threat, attack, target=None, batch_size="auto", seed=seed, index=images.index[rows].cpu(), progress=False
    )  # fmt: skip
    return x, x_adv, predict(model, x_adv, len(x)).argmax(1)


def _classes(
    model: torch.nn.Module, images: Images, rows: Tensor, threat: ThreatModel, attack: str, seed: int
) -> Tensor:
    return _attack(model, images, rows, threat, attack, seed)[2]


def _distances(
    model: torch.nn.Module, images: Images, rows: Tensor, threat: ThreatModel, attack: str, seed: int
) -> Tensor:
    """Return distance and predicted class per image, N,2; the distance is inf if no example was found."""
    x, x_adv, classes = _attack(model, images, rows, threat, attack, seed)
    distance = threat.distance(x_adv, x).where(classes != images.labels[rows], torch.inf)
    return torch.stack([distance, classes.float()], 1)
