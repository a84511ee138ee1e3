"""The audit of a data set."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcls.auditing.attacked import attacked_classes, check_attacks, nearest_boundary
from robustcls.auditing.confident import Confident, find_label_errors
from robustcls.auditing.config import AuditConfig
from robustcls.auditing.duplicates import MOST, Group, find_duplicates
from robustcls.auditing.folds import OutOfFold, check_folds, divide, fold_options, out_of_fold
from robustcls.auditing.probe import load_pretrained, probe_folds
from robustcls.core.files import atomic_write
from robustcls.core.provenance import commit, versions
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.duplicates import digest
from robustcls.data.images import Images
from robustcls.data.splits import has_test, has_val, load_all, load_split
from robustcls.results.accuracy import Accuracy
from robustcls.results.arrays import Array
from robustcls.results.audit import BOUNDARY, LABEL_ERROR, TWO_LABELS, UNSURE, Audit, Copy, Duplicates, Finding, Pair
from robustcls.results.subject import Data, Provenance, Threat
from robustcls.runtime.device import describe_device, resolve_device
from robustcls.training.config import PYTHON

TRAINING = 0.8  # share of the time for training, if attacks follow
PAIRS = 20  # recorded clean confusions; half as many are recorded under attack
LEAST_ACCURACY, MOST_ISSUES = (
    0.5,
    0.2,
)  # limits of out-of-fold results; beyond them a note says that the issues are doubtful
PICTURE = 96  # maximum length of the longer side of a picture


def audit_data(
    config: AuditConfig,
    images: Images | None = None,
    *,
    progress: bool = False,
    command: str = "",
) -> tuple[Audit, OutOfFold]:
    """Audit the training split of a data set without writing anything. Raises InputError.

    images: audited in place of the data set config.data, which then only selects the recipe. Other splits are not searched
    for duplicates in this case.
    """
    began, started = time.perf_counter(), datetime.now(UTC)
    if images is not None and config.data is None:  # otherwise the recipe of the default data set would be used
        config = replace(config, data=PYTHON)
    clock = _Clock(config, began)
    options = fold_options(config)[0]
    threat = ThreatModel(options.norm, parse_eps(options.eps))  # type: ignore[arg-type]
    check_attacks(config.attack, config.minimum, threat)
    spec = config.data or "digits"
    given = images is not None
    notes: list[str] = []
    if images is None:
        images = load_all(
            spec, seed=config.seed, data_dir=config.data_dir, skip_corrupt=config.skip_corrupt, limit=config.limit_train
        )  # fmt: skip
    threat.check_fits(images.pixels.shape[1:])
    pretrained = load_pretrained(config, images, given=given) if config.features else None
    notes += pretrained.notes if pretrained else []
    splits = {"train": images} if given else {"train": images, **_others(config, spec, images, notes)}
    groups = find_duplicates(torch.cat([one.pixels for one in splits.values()]), progress=progress)
    if sum(map(len, splits.values())) > MOST:
        notes.append(f"near duplicates were not searched for: more than {MOST:,} images")
    inside = [part for group in groups if len((part := _first(group, len(images))).rows) > 1]
    fold = divide(images.labels, config.folds, config.seed, inside)
    check_folds(images, fold, config.folds)
    penalty = None
    if pretrained:
        predictions, penalty = probe_folds(images, fold, config, pretrained.features, progress=progress)
    else:
        predictions = out_of_fold(images, fold, config, minutes=clock.for_a_fold, progress=progress)
    if config.epochs is None and 1 in predictions.epochs:
        notes.append(
            "the time was enough for only one epoch per fold: the predictions, and all results that use them, are unreliable"
        )
    confident = find_label_errors(predictions.probabilities, images.labels)
    pairs, attacked = _pairs(config, images, predictions, threat, clock, progress)
    boundary = _boundary(config, images, predictions, threat, clock, progress)
    if clock.was_over:
        notes.append("the time was up before all images were attacked: give more `minutes`")
    issues = [_label_error(images, confident, row) for row in confident.ranked().tolist()]
    correct = int((predictions.probabilities.argmax(1) == images.labels).sum())
    notes[:0] = _doubts(correct / len(images), len(issues) / len(images), config)
    duplicates = [_duplicates(splits, group) for group in groups]
    suggestions = _suggest(config.suggest, images, predictions, confident, issues, boundary, duplicates)
    for one in suggestions:
        one.picture = _picture(images.pixels[_place(images, one.index)])
    unused = ("arch",) if config.features else ()
    provenance = Provenance(
        command, {k: v for k, v in asdict(config).items() if v not in (None, ()) and k not in unused}, config.seed, versions(),
        describe_device(resolve_device(config.device)), commit(), started.isoformat(timespec="seconds"),
        round(time.perf_counter() - began, 3),
    )  # fmt: skip
    return Audit(
        data=Data(
            spec if not given else images.name, "train", len(images), images.sha256(), images.available, "", images.note,
            list(images.skipped), split_counts=list(images.split_counts),
        ),
        classes=list(images.classes),
        folds=config.folds,
        accuracy=Accuracy.of(correct, len(images)),
        issues=issues,
        thresholds=[None if math.isnan(value) else value for value in confident.thresholds.tolist()],
        joint=confident.joint.tolist(),
        pairs=pairs,
        boundary=boundary,
        suggestions=suggestions,
        duplicates=duplicates,
        provenance=provenance,
        arch="" if config.features else config.arch,
        features=config.features or "",
        features_sha256=pretrained.sha256 if pretrained else "",
        penalty=penalty,
        epochs=list(predictions.epochs),
        attack=config.attack if attacked else "",
        attacked=attacked,
        minimum=config.minimum if boundary else "",
        threat=Threat(threat.norm, threat.eps, threat.eps_text) if attacked or boundary else None,
        searched=list(splits),
        notes=notes,
    ), predictions  # fmt: skip


def _doubts(accuracy: float, issues: float, config: AuditConfig) -> list[str]:
    """Return a note if the models err so often that most label errors are probably their own. Both are shares of images."""
    if accuracy >= LEAST_ACCURACY and issues <= MOST_ISSUES:
        return []
    advice = "more `minutes`, a better `arch`, a `recipe` or a pretrained network as `features`"
    return [
        f"the models predict {accuracy:.0%} of the labels and take {issues:.0%} for wrong: most of these are likely errors of "
        f"the models: give {'another network as `features`' if config.features else advice}"
    ]


def save_predictions(predictions: OutOfFold, path: Path) -> None:
    """Write probabilities (float32 N,K) and fold (N) of the audited images as npz, in the order of the training split."""
    with atomic_write(path) as part, open(part, "wb") as file:
        numpy.savez_compressed(file, probabilities=predictions.probabilities.numpy(), fold=predictions.fold.numpy())


class _Clock:
    """The remaining time of an audit."""

    def __init__(self, config: AuditConfig, began: float) -> None:
        self.began, self.seconds = began, math.inf if config.epochs is not None else 60 * config.minutes
        self.training = TRAINING if (config.attack, config.minimum) != ("none", "none") else 0.97
        self.was_over = False

    def for_a_fold(self, folds: int) -> float:
        """Return the minutes for the next fold. folds: number of remaining folds."""
        return (self.training * self.seconds - (time.perf_counter() - self.began)) / folds / 60

    def until(self, share: float) -> Callable[[], bool]:
        """Return a function that says whether this share of the time has passed."""

        def over() -> bool:
            is_over = time.perf_counter() - self.began > share * self.seconds
            self.was_over |= is_over
            return is_over

        return over


def _others(config: AuditConfig, spec: str, images: Images, notes: list[str]) -> dict[str, Images]:
    """Return the other splits of the data set that have images of the same size, for the search for duplicates."""
    size = images.pixels.shape[1:]
    names = (["val"] if has_val(spec) else []) + (["test"] if has_test(spec) else [])
    others = {
        name: load_split(spec, name, data_dir=config.data_dir, skip_corrupt=config.skip_corrupt, seed=config.seed)
        for name in names
    }
    for name, one in others.items():
        if one.pixels.shape[1:] != size:
            sizes = " and ".join("x".join(map(str, shape)) for shape in (size, one.pixels.shape[1:]))
            notes.append(f"duplicates were not searched for in {name}: images of train and {name} are of {sizes}")
    return {name: one for name, one in others.items() if one.pixels.shape[1:] == size}


def _first(group: Group, count: int) -> Group:
    return Group(tuple(row for row in group.rows if row < count), group.likeness)


def _pairs(
    config: AuditConfig, images: Images, predictions: OutOfFold, threat: ThreatModel, clock: _Clock, progress: bool
) -> tuple[list[Pair], int]:
    """Return the most frequent confusions, clean and under attack, and the number of attacked images."""
    labels, k = images.labels, len(images.classes)
    clean = _count(labels, predictions.probabilities.argmax(1), k)
    attacked = None
    rows = labels[:0]
    if config.attack != "none":
        rows, classes = attacked_classes(
            images, predictions, threat, config.attack, config.attack_n, over=clock.until(0.9), seed=config.seed,
            progress=progress,
        )  # fmt: skip
        attacked = _count(labels[rows], classes, k) if len(rows) else None
    wanted = dict.fromkeys([*_largest(clean)[:PAIRS], *_largest(attacked or [])[: PAIRS // 2]])
    pairs = [Pair(i, j, _share(clean, i, j), None if attacked is None else _share(attacked, i, j)) for i, j in wanted]
    return sorted(pairs, key=lambda pair: -pair.clean.correct), len(rows)


def _largest(table: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return the positions of non-zero counts off the diagonal, the largest count first."""
    places = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) if i != j and count]
    return sorted(places, key=lambda place: -table[place[0]][place[1]])


def _count(labels: Tensor, classes: Tensor, k: int) -> list[list[int]]:
    table: list[list[int]] = (labels * k + classes).bincount(minlength=k * k).view(k, k).tolist()
    return table


def _share(table: Sequence[Sequence[int]], i: int, j: int) -> Accuracy:
    return Accuracy.of(table[i][j], sum(table[i]))


def _boundary(
    config: AuditConfig, images: Images, predictions: OutOfFold, threat: ThreatModel, clock: _Clock, progress: bool
) -> list[Finding]:
    if config.minimum == "none":
        return []
    rows, distances, classes = nearest_boundary(
        images, predictions, threat, config.minimum, config.minimum_n, over=clock.until(1.0), seed=config.seed,
        progress=progress,
    )  # fmt: skip
    return [
        _finding(images, row, guess, BOUNDARY, distance)
        for row, guess, distance in zip(rows.tolist(), classes.tolist(), distances.tolist(), strict=True)
    ]


def _label_error(images: Images, confident: Confident, row: int) -> Finding:
    finding = _finding(images, row, int(confident.guess[row]), LABEL_ERROR, float(confident.margin[row]))
    finding.odds = float(f"{confident.ratio[row].exp().item():.6g}")
    return finding


def _finding(images: Images, row: int, guess: int, reason: str, score: float) -> Finding:
    return Finding(
        index=int(images.index[row]), label=int(images.labels[row]), guess=guess, reason=reason, score=round(score, 6),
        digest=digest(images.pixels[row]), file=images.files[row] if images.files else None,
    )  # fmt: skip


def _duplicates(splits: dict[str, Images], group: Group) -> Duplicates:
    copies, first = [], 0
    for name, images in splits.items():
        copies += [
            Copy(name, int(images.index[row]), int(images.labels[row]), images.files[row] if images.files else None)
            for row in (one - first for one in group.rows if first <= one < first + len(images))
        ]
        first += len(images)
    return Duplicates(group.exact, round(group.likeness, 4), copies)


def _suggest(
    most: int, images: Images, predictions: OutOfFold, confident: Confident, issues: Sequence[Finding],
    boundary: Sequence[Finding], duplicates: Sequence[Duplicates],
) -> list[Finding]:  # fmt: skip
    """Return what a person should check, in this order.

    Duplicates with two labels, of which one is wrong; label errors; images near the boundary; and images on which the models
    are least certain.
    """
    two = [
        _finding(images, row, int(predictions.probabilities[row].argmax()), TWO_LABELS, group.likeness)
        for group in duplicates
        if group.two_labels
        for row in (_place(images, copy.index) for copy in group.images if copy.split == "train")
    ]
    margin = confident.margin.abs()
    unsure = [
        _finding(images, row, int(predictions.probabilities[row].argmax()), UNSURE, float(confident.margin[row]))
        for row in margin.argsort(stable=True)[:most].tolist()
    ]
    chosen: dict[int, Finding] = {}
    for one in (*two, *issues, *boundary, *unsure):
        if len(chosen) < most:
            chosen.setdefault(one.index, one)
    return list(chosen.values())


def _place(images: Images, index: int) -> int:
    """Return the row of an audited image by its position in the split."""
    return int(torch.searchsorted(images.index, index))


def _picture(pixels: Tensor) -> Array:
    longest = max(pixels.shape[1:])
    x = pixels[None].float()
    if longest > PICTURE:
        x = F.interpolate(x, scale_factor=PICTURE / longest, mode="area")
    return Array.encode(x[0].round().numpy() / 255, "uint8", 1 / 255)
