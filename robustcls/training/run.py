"""A training run: what it owns, and what happens in a batch and in an epoch."""

import copy
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl, likeliest
from robustcls.core.options import parse_batch_size
from robustcls.core.overfitting import catastrophes
from robustcls.core.records import Epoch
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.core.traits import traits_of
from robustcls.data.augment import augmenter
from robustcls.data.images import Images
from robustcls.data.loader import batches, num_batches
from robustcls.data.splits import choose
from robustcls.models.checkpoint import build
from robustcls.models.transfer import freeze, initialise, keep_frozen_in_eval
from robustcls.objectives.loss import BoundAttack, Loss
from robustcls.runtime.device import (
    autocast,
    make_deterministic,
    resolve_batch_size,
    resolve_device,
    resolve_precision,
)
from robustcls.runtime.search import SearchTwin, uncompiled
from robustcls.runtime.world import World
from robustcls.training import saved
from robustcls.training.averaging import Average, Ema, Swa
from robustcls.training.config import TrainConfig
from robustcls.training.optimizer import make_optimizer
from robustcls.training.tracking import Tracking
from robustcls.training.validation import Validation

MOST_ROLLBACKS = 5
SWA_FORWARDS = 50  # batches that estimate BatchNorm's statistics of averaged weights


class Run:
    """Owns model, optimizer and random streams; `training.loop.train` drives it.

    Every batch draws its randomness from (seed, epoch, batch) alone, so a resumed run needs no random state.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, train: Images, val: Images, world: World | None = None
    ) -> None:
        self.config, self.folder, self.world = config, folder, world or World()
        if config.deterministic:
            make_deterministic()
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(config.precision, self.device)
        self.threat = ThreatModel(config.norm, parse_eps(config.eps))  # type: ignore[arg-type]
        self.train, self.val = train.to(self.device), val.to(self.device)
        size = tuple(train.pixels.shape[1:])
        self.batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, self.device)
        self.num_batches = num_batches(train, self.batch_size, drop_last=True)
        self._check_batch_size()

        self.augment = augmenter(config.augment, flip=train.flip, num_classes=len(train.classes))
        self.schedule = plugins.load("schedule", config.schedule)
        self.objective: Callable[..., Loss] = plugins.load("objective", config.objective or "standard")
        self.step: Callable[..., Loss] = plugins.load("step", config.step)
        self.inner = None if config.adv in (None, "none") else plugins.load("attack", config.adv)

        torch.manual_seed(config.seed)
        mean, std = channel_statistics(train.pixels)
        model = build(config.arch, classes=train.classes, input_size=size, mean=mean, std=std, head=config.head)
        self.init_note = initialise(model, config.init) if config.init else ""
        self.model: Classifier = model.to(self.device).to(memory_format=torch.channels_last)
        self.still = freeze(self.model, config.freeze)
        self.twin = SearchTwin(self.model, self.precision)
        self.average: Average | None = (
            Ema(self.model, config.ema) if config.ema else Swa(self.model) if config.swa else None
        )
        self.average_twin = SearchTwin(self.average.model, self.precision) if self.average else self.twin
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.generator = torch.Generator(self.device)
        if config.compile:
            self.model.compile()
            self.twin.compile_twin()
        self.replica = self.world.parallel(_Objective(self.model, self.objective))
        attacks = {"val_robust": config.val_attack, "val_fgsm": "fgsm"}
        self.validation = partial(
            Validation,
            self.val,
            self.train,
            attacks={name: plugins.load("attack", spec) for name, spec in attacks.items()},
            threat=self.threat,
            batch_size=self.batch_size,
            seed=config.seed,
            world=self.world,
        )

        self.epoch = self.batch = 0  # the next batch to train on
        self.history: list[Epoch] = []
        self.best_score, self.best_epoch = (-1.0, -1.0), 0
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, right, seen of this epoch
        self.parts: dict[str, Tensor] = {}  # of the objective, summed over this epoch's images
        self.first_bad = torch.full((), -1, device=self.device)  # the batch of this epoch whose loss was no number
        self.epoch_seconds = 0.0
        self.attacked = False  # whether the logits of this epoch are those of adversarial images
        self.rollbacks = 0
        self.stopped = ""  # why the run ended before its last epoch
        self.state: dict[str, Tensor] = {}  # what a step keeps from batch to batch
        self.track_from_here()

    def track_from_here(self) -> None:
        """Makes the trackers anew; they write nothing before the first epoch's end."""
        specs = self.config.track if self.world.first else ()
        every = self.config.track_images or self.config.epochs + 1
        self.tracking = Tracking(specs, self.folder, vars(self.config), start=self.images_seen, every=every)

    def _check_batch_size(self) -> None:
        shares, least = self.world.size * self.config.accumulate, min(self.batch_size, len(self.train))
        if self.batch_size % shares:
            raise InputError(
                f"batches of {self.batch_size} cannot be cut in {shares} equal parts: give another --batch-size"
            )
        if least < 2 * shares:
            raise InputError(
                f"BatchNorm cannot train on batches of one image: give --batch-size and --limit-train {2 * shares} or more"
            )

    @property
    def judged(self) -> Classifier:
        """The model that is validated and saved: the average, once there is one."""
        return self.average.model if self.average and self.average.updates else self.model

    @property
    def share_done(self) -> float:
        """Of the whole run, in the middle of the batch to come."""
        return (self.epoch * self.num_batches + self.batch + 0.5) / (self.config.epochs * self.num_batches)

    @property
    def images_seen(self) -> int:
        return (self.epoch * self.num_batches + self.batch) * self.batch_size

    # One batch

    def batches(self, *, stream: int | None = None, start: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of this epoch: images float32 in [0, 1], augmented, and labels; the learning rate is set.

        stream: another order and other draws, for batches that are not trained on.
        """
        seed = self.config.seed if stream is None else mix(self.config.seed, stream)
        for number, (x, y) in enumerate(
            batches(
                self.train,
                self.batch_size,
                seed=seed,
                epoch=self.epoch,
                start=self.batch if stream is None else 0,
                drop_last=True,
                channels_last=True,
                rank=self.world.rank,
                size=self.world.size,
            )
        ):
            self.draw_anew(seed, self.epoch, self.batch if stream is None else number)
            if stream is None:
                self.set_lr()
            yield self.augment(x, y, self.generator)

    def draw_anew(self, *values: int) -> None:
        """Begins the random streams of these values, another in each process."""
        seed = (mix(*values) + self.world.rank) % 2**63
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)

    def set_lr(self) -> None:
        rate = self.config.lr * self.schedule(self.share_done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Callable[..., Tensor] = cross_entropy) -> Tensor:
        """The inner attack, crafted on the model's eval-mode twin, so that BatchNorm statistics stay the data's.

        loss=kl: away from the model's own clean prediction instead of y.
        """
        inner = self.inner
        if inner is None:
            raise InputError(
                f"objective {self.config.objective} needs an attack: name one with --adv, such as --adv pgd, "
                "or give --objective standard"
            )
        takes = inspect.signature(inner).parameters
        if loss is not cross_entropy and "loss" not in takes:
            raise InputError(
                f"objective {self.config.objective} needs an inner attack that takes its loss: give --adv pgd"
            )
        if loss is kl and "random_start" in takes and not takes["random_start"].default:
            raise InputError(
                f"{self.config.adv} starts at the clean image, where {self.config.objective} has no gradient: "
                f"give --adv {plugins.parse('attack', self.config.adv or '').name}(random_start=True)"
            )
        if (loss is kl or y.is_floating_point()) and not traits_of(inner).soft_labels:
            raise InputError(f"{self.config.adv} needs one label an image: give --adv pgd, fgsm or n_fgsm")
        options: dict[str, Any] = {} if loss is cross_entropy else {"loss": loss}
        if self.rollbacks and "step_size" in takes:
            options["step_size"] = step_size_of(inner, self.threat) / 2**self.rollbacks
        self.twin.refresh()
        with torch.autocast(self.device.type, enabled=False):
            if loss is kl:
                with torch.no_grad():
                    y = self.twin(x)
            return inner(self.twin, x, y, self.threat, generator=self.generator, **options).detach()

    def gradient(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        """Fills the parameters' gradients with those of the objective on the batch, part by part where that was asked."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(self.config.accumulate), y.chunk(self.config.accumulate), strict=True))
        losses = []
        for number, (images, labels) in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._unsynchronised():
                with self.autocast():
                    loss = self.replica(images, labels, attack)
                self.scaler.scale(loss.total / len(parts)).backward()
            losses.append(loss)
        return losses[0] if len(losses) == 1 else Loss.mean(losses)

    def update(self) -> None:
        """One step of the optimizer along the gradients, clipped where that was asked."""
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    def _unsynchronised(self) -> AbstractContextManager:
        return self.replica.no_sync() if self.world.size > 1 else nullcontext()  # type: ignore[operator]

    @torch.no_grad()
    def note(self, loss: Loss, y: Tensor, seconds: float) -> None:
        """Counts a finished batch, without waiting for the device."""
        if isinstance(self.average, Ema):
            self.average.update(self.model)
        total = loss.total.detach()
        right = (loss.logits.argmax(1) == likeliest(y)).sum()
        self.totals += torch.stack([total.double() * len(y), right.double(), right.new_tensor(len(y)).double()])
        for name, value in loss.parts.items():
            self.parts[name] = self.parts.get(name, 0) + value.detach().double() * len(y)
        self.first_bad = torch.where((self.first_bad < 0) & ~total.isfinite(), self.batch, self.first_bad)
        self.attacked = loss.seen == "adversarial"
        self.epoch_seconds += seconds
        self.batch += 1

    def check_finite(self) -> None:
        """Raises InputError where the loss of a batch of this epoch was not a number."""
        bad = int(self.first_bad)
        if bad >= 0:
            kept = self.folder / "last.pt"
            raise InputError(
                f"the loss was no finite number in batch {bad + 1} of {self.num_batches} of epoch {self.epoch + 1}: "
                "lower --lr or give --clip 1" + (f"; {kept} keeps the last good state" if kept.exists() else "")
            )

    # One epoch

    def begin_epoch(self) -> None:
        self.model.train()
        keep_frozen_in_eval(self.still)

    def finish_epoch(self) -> Epoch:
        """Validates, selects, watches, writes history and checkpoints, and moves on to the next epoch."""
        self.check_finite()
        if isinstance(self.average, Swa) and self.epoch + 1 > self.config.swa * self.config.epochs:
            self.average.update(self.model, self._forwards(self.average.model))
        started = time.perf_counter()
        measured = self.validate(self.config.val_n)
        loss, right, seen = self.world.sum(self.totals.cpu()).tolist()
        row = Epoch(
            epoch=self.epoch + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            train_loss=loss / seen,
            train_robust=right / seen if self.attacked else None,
            seconds=round(self.epoch_seconds, 2),
            images_per_second=round(seen / self.epoch_seconds, 1),
            val_seconds=round(time.perf_counter() - started, 2),
            parts={name: float(value) * self.world.size / seen for name, value in self.parts.items()},
            **measured,
        )
        self.history.append(row)
        collapsed = self.config.is_adversarial and len(self.history) - 1 in (catastrophes(self.history) or ())
        went_back = collapsed and self._meet_collapse(row)
        if not went_back:
            self._begin_next(row)
        saved.save_last(self)
        if self.config.on_collapse == "rollback" and not row.event:
            saved.keep_good(self)
        self._track(row)
        return row

    def _begin_next(self, row: Epoch) -> None:
        self.epoch, self.batch = row.epoch, 0
        self.totals.zero_()
        self.parts, self.epoch_seconds = {}, 0.0
        score = (row.val_robust or 0.0, row.val_clean or 0.0)
        score = score if self.config.is_adversarial else score[::-1]
        if score > self.best_score:
            self.best_score, self.best_epoch = score, row.epoch
            saved.save_best(self)
        if 0 < self.config.patience <= row.epoch - self.best_epoch and not self.stopped:
            self.stopped = row.event = f"no better epoch than {self.best_epoch} for {self.config.patience} epochs"

    def _meet_collapse(self, row: Epoch) -> bool:
        """Does what was asked for on a collapse. Whether it went back to the last good epoch."""
        row.event = (
            f"catastrophic overfitting in epoch {row.epoch}: "
            f"robust {row.val_robust or 0:.1%}, single-step {row.val_fgsm or 0:.1%}"
        )
        if self.config.on_collapse == "stop":
            self.stopped = row.event
        elif self.config.on_collapse == "rollback" and (self.folder / "good.pt").exists():
            if self.rollbacks == MOST_ROLLBACKS:
                self.stopped = f"{row.event}, after {MOST_ROLLBACKS} rollbacks"
                return False
            history, rollbacks = self.history, self.rollbacks + 1
            saved.restore_state(self, saved.read_last(self.folder, "good.pt")[1])
            row.event += f"; back to epoch {self.epoch}, the attack's step cut to 1/{2**rollbacks}"
            self.history, self.rollbacks = history, rollbacks
            return True
        return False

    def _forwards(self, model: Classifier) -> Iterator[Loss]:
        """The objective on the model, on batches of other draws than training's; BatchNorm sees what it will see."""
        twin, self.twin = self.twin, self.average_twin
        attack: BoundAttack = (lambda _model, x, *_, **__: x) if self.inner is None else self.attack
        try:
            for (x, y), _ in zip(self.batches(stream=1), range(SWA_FORWARDS), strict=False):
                with self.autocast():
                    yield self.objective(model, x, y, attack)
        finally:
            self.twin = twin

    def validate(self, count: int) -> dict[str, Any]:
        self.world.share_buffers(self.judged)
        twin = self.twin if self.judged is self.model else self.average_twin
        return self.validation(count).measure(self.judged, twin)

    def _track(self, row: Epoch) -> None:
        if self.tracking.wants_images(row.epoch):
            x, y = choose(self.val, 8).batch()
            self.twin.refresh()
            x_adv = plugins.load("attack", self.config.val_attack)(
                self.twin, x, y, self.threat, generator=torch.Generator(self.device).manual_seed(self.config.seed)
            )
            self.tracking.images(self.images_seen, x, x_adv)
        self.tracking.epoch(row, self.images_seen, {})

    def rehearse(self) -> None:
        """Takes a step on two images and validates two, then forgets it, so that what would stop the run is said first."""
        content = copy.deepcopy(saved.state_of(self) | {"state_dict": self.model.net.state_dict()})
        shares = self.config.accumulate
        x, y = choose(self.train, 2 * shares).batch()
        self.draw_anew(self.config.seed)
        self.set_lr()
        self.begin_epoch()
        x, y = self.augment(x, y, self.generator)
        with uncompiled():
            self.step(self, x, y)
        saved.restore_state(self, content)
        for attack in self.validation(2).attacks.values():
            attack(self.twin, x, likeliest(y), self.threat, generator=self.generator)
        self.validate(2)

    @property
    def selected_by(self) -> str:
        how = f"under {self.config.val_attack}" if self.config.is_adversarial else "without an attack"
        return f"accuracy {how} on {min(self.config.val_n, len(self.val))} validation images"


class _Objective(nn.Module):
    """The objective as a module, so that DistributedDataParallel wraps it and attacks see the raw model."""

    def __init__(self, model: nn.Module, objective: Callable[..., Loss]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        return self.objective(self.model, x, y, attack)


def step_size_of(attack: Callable[..., Tensor], threat: ThreatModel) -> float:
    """The attack's step in pixel values, by its options; where they leave it open, eps for one step, as for PGD else."""
    parameters = inspect.signature(attack).parameters
    given = parameters["step_size"].default
    if given is not None:
        return float(given)
    return 2.5 * threat.eps / parameters["steps"].default if "steps" in parameters else threat.eps


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
