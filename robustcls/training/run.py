"""A training run: what it owns, what it saves, and how it goes on after a stop."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.config import resolve, to_toml
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, replacing
from robustcls.core.gradients import frozen
from robustcls.core.options import parse_batch_size
from robustcls.core.provenance import versions
from robustcls.core.records import Epoch
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.augment import augmenter
from robustcls.data.images import Images
from robustcls.data.loader import batches, num_batches
from robustcls.data.splits import choose
from robustcls.models.checkpoint import build, load_weights, save_checkpoint
from robustcls.models.weights import read_file
from robustcls.objectives.loss import Loss
from robustcls.runtime.device import autocast, resolve_batch_size, resolve_device, resolve_precision
from robustcls.runtime.search import SearchTwin
from robustcls.training.averaging import Ema
from robustcls.training.config import TrainConfig
from robustcls.training.validation import clean_accuracy, robust_accuracy


class Run:
    """Owns model, optimizer and random streams; `training.loop.train` drives it.

    Every batch draws its randomness from (seed, epoch, batch) alone, so a resumed run needs no random state.
    """

    def __init__(self, config: TrainConfig, folder: Path, train: Images, val: Images) -> None:
        self.config, self.folder = config, folder
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.threat = ThreatModel(config.norm, parse_eps(config.eps))  # type: ignore[arg-type]
        self.train, self.val = train.to(self.device), val.to(self.device)
        size = tuple(train.pixels.shape[1:])
        self.batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, self.device)
        self.num_batches = num_batches(train, self.batch_size, drop_last=True)
        if min(self.batch_size, len(train)) < 2:
            raise InputError(
                "BatchNorm cannot train on batches of one image: give --batch-size and --limit-train 2 or more"
            )
        for name in config.track:
            plugins.load("tracker", name)
        self.augment = augmenter(config.augment, train.flip)
        self.schedule = plugins.load("schedule", config.schedule)
        self.objective: Callable[..., Loss] = plugins.load("objective", config.objective or "standard")
        self.step: Callable[..., Loss] = plugins.load("step", config.step)
        self.val_attack = plugins.load("attack", config.val_attack)
        self.inner = None if config.adv in (None, "none") else plugins.load("attack", config.adv)

        torch.manual_seed(config.seed)
        mean, std = channel_statistics(train.pixels)
        model = build(config.arch, classes=train.classes, input_size=size, mean=mean, std=std)
        self.model: Classifier = model.to(self.device).to(memory_format=torch.channels_last)
        self.twin = SearchTwin(self.model, self.precision)
        self.ema = Ema(self.model, config.ema) if config.ema else None
        self.judged: Classifier = self.ema.model if self.ema else self.model  # type: ignore[assignment]
        self.judged_twin = SearchTwin(self.judged, self.precision) if self.ema else self.twin
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.generator = torch.Generator(self.device)

        self.epoch = self.batch = 0  # the next batch to train on
        self.history: list[Epoch] = []
        self.best_score, self.best_epoch = (-1.0, -1.0), 0
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, right, seen of this epoch
        self.epoch_seconds = 0.0
        self.attacked = False  # whether the logits of this epoch are those of adversarial images

    # One batch

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch: images float32 in [0, 1], augmented, and labels; the learning rate is set."""
        for x, y in batches(
            self.train,
            self.batch_size,
            seed=self.config.seed,
            epoch=self.epoch,
            start=self.batch,
            drop_last=True,
            channels_last=True,
        ):
            seed = mix(self.config.seed, self.epoch, self.batch)
            torch.manual_seed(seed)
            self.generator.manual_seed(seed)
            self.set_lr()
            yield self.augment(x, self.generator), y

    def rehearse(self) -> None:
        """Augments, attacks and validates two images, so that what would stop the run is said before it writes."""
        x, y = choose(self.train, 2).batch()
        with frozen(self.model), self.autocast():
            self.objective(self.model, self.augment(x, self.generator), y, self.attack)
        self.validate(2)

    def set_lr(self) -> None:
        progress = (self.epoch * self.num_batches + self.batch + 0.5) / (self.config.epochs * self.num_batches)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self.schedule(progress)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """The inner attack, crafted on the model's eval-mode twin, so that BatchNorm statistics stay the data's."""
        if self.inner is None:
            raise InputError(
                f"objective {self.config.objective} needs an attack: name one with --adv, such as --adv pgd, "
                "or give --objective standard"
            )
        self.twin.refresh()
        with torch.autocast(self.device.type, enabled=False):
            return self.inner(self.twin, x, y, self.threat, generator=self.generator, **options).detach()

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    @torch.no_grad()
    def note(self, loss: Loss, y: Tensor, seconds: float) -> None:
        """Counts a finished batch, without waiting for the device."""
        if self.ema:
            self.ema.update(self.model)
        right = (loss.logits.argmax(1) == y).sum()
        self.totals += torch.stack(
            [loss.total.detach().double() * len(y), right.double(), right.new_tensor(len(y)).double()]
        )
        self.attacked = loss.seen == "adversarial"
        self.epoch_seconds += seconds
        self.batch += 1

    # One epoch

    def finish_epoch(self) -> Epoch:
        """Validates, writes history and checkpoints, and moves on to the next epoch."""
        loss, right, seen = self.totals.tolist()
        if loss != loss or loss in (float("inf"), -float("inf")):
            kept = f"; {self.folder / 'ckpt.pt'} keeps epoch {self.best_epoch}, the best so far" if self.history else ""
            raise InputError(f"the loss became {loss} in epoch {self.epoch + 1}: lower --lr{kept}")
        measured = self.validate(self.config.val_n)
        row = Epoch(
            epoch=self.epoch + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=loss / seen,
            train_robust=right / seen if self.attacked else None,
            seconds=round(self.epoch_seconds, 2),
            images_per_second=round(seen / self.epoch_seconds, 1),
            **measured,
        )
        self.history.append(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals.zero_()
        self.epoch_seconds = 0.0
        score = (row.val_robust or 0.0, row.val_clean or 0.0)
        score = score if self.inner else score[::-1]
        if score > self.best_score:
            self.best_score, self.best_epoch = score, row.epoch
            save_checkpoint(self.folder / "ckpt.pt", self.judged, self.meta())
        self.save_last()
        return row

    def validate(self, count: int) -> dict[str, float]:
        (x, y), (seen, labels) = (choose(images, count).batch() for images in (self.val, self.train))
        x, seen = (images.contiguous(memory_format=torch.channels_last) for images in (x, seen))
        robust = [
            robust_accuracy(self.judged, self.judged_twin, x, y, self.threat, attack, self.batch_size, self.config.seed)
            for attack in (self.val_attack, plugins.load("attack", "fgsm"))
        ]
        return {
            "train_clean": clean_accuracy(self.judged, seen, labels, self.batch_size),
            "val_clean": clean_accuracy(self.judged, x, y, self.batch_size),
            "val_robust": robust[0],
            "val_fgsm": robust[1],
        }

    # Files

    @property
    def selected_by(self) -> str:
        how = f"under {self.config.val_attack}" if self.inner else "without an attack"
        return f"accuracy {how} on {min(self.config.val_n, len(self.val))} validation images"

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of itself: primitives alone."""
        return {
            "data": self.config.data,
            "data_dir": self.config.data_dir,
            "seed": self.config.seed,
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "epoch": self.best_epoch,
            "selected_by": self.selected_by,
            "note": self.train.note,
            "config": dataclasses.asdict(self.config),
            "precision": self.precision,
            "versions": versions(),
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def save_config(self) -> None:
        with replacing(self.folder / "config.toml") as part:
            part.write_text(to_toml(self.config), encoding="utf-8")

    def save_last(self) -> None:
        """Writes history.jsonl, then last.pt: everything that going on needs."""
        with replacing(self.folder / "history.jsonl") as part:
            part.write_text("".join(_json_line(row) for row in self.history), encoding="utf-8")
        save_checkpoint(
            self.folder / "last.pt",
            self.model,
            self.meta(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            ema={"updates": self.ema.updates, "state_dict": self.ema.model.state_dict()} if self.ema else None,
            progress={
                "epoch": self.epoch,
                "batch": self.batch,
                "history": [dataclasses.asdict(row) for row in self.history],
                "best_score": list(self.best_score),
                "best_epoch": self.best_epoch,
                "totals": self.totals.tolist(),
                "epoch_seconds": self.epoch_seconds,
                "attacked": self.attacked,
            },
        )

    def load_last(self, content: dict[str, Any]) -> None:
        """Goes back to where last.pt was written."""
        load_weights(self.model.net, content["state_dict"], "last.pt")
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.ema:
            self.ema.updates = content["ema"]["updates"]
            load_weights(self.ema.model, content["ema"]["state_dict"], "last.pt")
        progress = content["progress"]
        self.epoch, self.batch = progress["epoch"], progress["batch"]
        self.history = [Epoch(**row) for row in progress["history"]]
        self.best_score, self.best_epoch = tuple(progress["best_score"]), progress["best_epoch"]
        self.totals.copy_(torch.tensor(progress["totals"], dtype=torch.float64))
        self.epoch_seconds, self.attacked = progress["epoch_seconds"], progress["attacked"]


def read_last(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration and the content of a run folder's last.pt. Raises InputError."""
    path = folder / "last.pt"
    if not path.exists():
        raise InputError(f"no {path}: give the folder of a run that finished an epoch or was interrupted")
    content = read_file(path)
    if not isinstance(content, dict) or "progress" not in content:
        raise InputError(f"{path} is not the last.pt of a run: give a run folder")
    return resolve(TrainConfig, content["meta"]["config"]), content


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; weight decay on weights of convolutions and linear layers alone, by module type."""
    decayed = [
        parameter
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        for name, parameter in module.named_parameters(recurse=False)
        if name == "weight"
    ]
    chosen = {id(parameter) for parameter in decayed}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True)


def channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 pixels N,C,H,W, on the [0, 1] scale."""
    means, squares = [], []
    for chunk in pixels.split(4096):
        values = chunk.double() / 255
        means.append(values.mean((2, 3)).sum(0))
        squares.append(values.square().mean((2, 3)).sum(0))
    mean = torch.stack(means).sum(0) / len(pixels)
    variance = torch.stack(squares).sum(0) / len(pixels) - mean.square()
    return mean.tolist(), variance.clamp_min(1e-8).sqrt().tolist()


def new_folder(config: TrainConfig) -> Path:
    """The run folder: --out, or a fresh one named for data, architecture, attack and time. Raises InputError."""
    if config.out:
        folder = Path(config.out)
        if (folder / "last.pt").exists():
            raise InputError(f"{folder} already holds a run: go on with --resume {folder}, or name another --out")
    else:
        parts = [config.data or "", config.arch, config.adv or "none", time.strftime("%Y%m%d-%H%M%S")]
        folder = Path("runs") / "-".join(_slug(part) for part in parts)
    check_writable(folder / "config.toml")
    return folder


def _slug(text: str) -> str:
    head = text.rstrip("/").rsplit("/", 1)[-1].split("(")[0]
    return "".join(letter if letter.isalnum() or letter in "_." else "_" for letter in head) or "run"


def _json_line(row: Epoch) -> str:
    import json

    return json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n"
