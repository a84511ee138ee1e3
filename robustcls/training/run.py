"""A training run: what it owns, and what happens in a batch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy
from robustcls.core.objective import BoundAttack, Loss
from robustcls.core.options import parse_batch_size
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.core.traits import traits_of
from robustcls.data.augment import augmenter
from robustcls.data.images import Images
from robustcls.data.loader import batches, num_batches
from robustcls.data.splits import choose
from robustcls.models.checkpoint import build
from robustcls.models.transfer import freeze, initialise, keep_frozen_in_eval
from robustcls.results.records import Chance, Epoch
from robustcls.runtime.device import (
    autocast,
    make_deterministic,
    resolve_batch_size,
    resolve_device,
    resolve_precision,
)
from robustcls.runtime.fused import SearchTwin
from robustcls.runtime.world import World
from robustcls.training.averaging import Average, Ema, Swa
from robustcls.training.config import TrainConfig
from robustcls.training.ends import check_outputs, normalisation
from robustcls.training.inner_attack import InnerAttack, load_whole
from robustcls.training.meter import Meter
from robustcls.training.optimizer import make_optimizer
from robustcls.training.tracking import Tracking
from robustcls.training.validation import Validation


class Run:
    """Owns model, optimizer and random streams; `training.loop.train` drives it.

    Every batch draws its randomness from (seed, epoch, batch) alone, so a resumed run needs no random state.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        train: Images,
        val: Images,
        world: World | None = None,
        *,
        resumed: bool = False,
    ) -> None:
        """resumed: the weights are to come from last.pt, so those of --init are not read."""
        self.config, self.folder, self.world = config, folder, world or World()
        if config.deterministic:
            make_deterministic()
        self.device = resolve_device(config.device)
        if config.cuda_graphs and self.device.type != "cuda":
            raise InputError("--cuda-graphs needs a CUDA device: leave it out")
        self.precision = resolve_precision(config.precision, self.device)
        self.threat = ThreatModel(config.norm, parse_eps(config.eps))  # type: ignore[arg-type]
        self.train, self.val = train.to(self.device), val.to(self.device)
        size = tuple(train.pixels.shape[1:])
        self.threat.check_eps(size)
        self.batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, self.device)
        self.num_batches = num_batches(train, self.batch_size, drop_last=True)
        self._check_batch_size()

        self.augment = augmenter(config.augment, flip=train.flip, num_classes=len(train.classes))
        self.schedule = plugins.load("schedule", config.schedule)
        self.objective: Callable[..., Loss] = plugins.load("objective", config.objective or "standard")
        self.step: Callable[..., Loss] = plugins.load("step", config.step)
        self.inner = (
            InnerAttack(config.adv, config.objective or "", self.threat) if config.adv not in (None, "none") else None
        )

        torch.manual_seed(config.seed)
        mean, std = normalisation(config, train.pixels)
        model = build(config.arch, classes=train.classes, input_size=size, mean=mean, std=std, head=config.head)
        self.output_note = "" if resumed else check_outputs(model, train)
        self.init_note = initialise(model, config.init) if config.init and not resumed else ""
        if config.mean or config.std:  # what was asked for wins over what the weights were trained with
            model.mean, model.std = (model.mean.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self.model: Classifier = model.to(self.device).to(memory_format=torch.channels_last)
        self.still = freeze(self.model, config.freeze)
        self.twin = SearchTwin(self.model, self.precision)
        self.average: Average | None = (
            Ema(self.model, config.ema) if config.ema else Swa(self.model, config.freeze) if config.swa else None
        )
        self.average_twin = SearchTwin(self.average.model, self.precision) if self.average else self.twin
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.generator = torch.Generator(self.device)
        if config.compile:
            self.model.compile()
        if config.compile or config.cuda_graphs:
            self.twin.compile_twin(cuda_graphs=config.cuda_graphs)
        self.replica = self.world.parallel(_Objective(self.model, self.objective))
        self.val_attack = load_val_attack(config, self.threat)
        self.validation = partial(
            Validation,
            self.val,
            self.train,
            attacks={"val_robust": self.val_attack, "val_fgsm": plugins.load("attack", "fgsm")}
            if self.val_attack
            else {},
            threat=self.threat,
            batch_size=self.batch_size,
            seed=config.seed,
            world=self.world,
        )

        self.epoch = self.batch = 0  # the next batch to train on
        self.history: list[Epoch] = []
        self.best_score, self.best_epoch = (-1.0, -1.0), 0
        self.meter = Meter(self.device)  # of this epoch
        self.rollbacks = 0
        self.stopped = ""  # why the run ended before its last epoch
        self.state: dict[str, Tensor] = {}  # what a step keeps from batch to batch
        self.tracking: Tracking | None = None
        self.track_from_here()

    def track_from_here(self) -> None:
        """Makes the trackers anew; they write nothing before the first epoch's end."""
        self.close()
        specs = self.config.track if self.world.first else ()
        every = self.config.track_images or self.config.epochs + 1
        self.tracking = Tracking(specs, self.folder, vars(self.config), start=self.images_seen, every=every)

    def close(self) -> None:
        """Lets the trackers write what is left."""
        if self.tracking:
            self.tracking.close()

    def _check_batch_size(self) -> None:
        shares, least = self.world.size * self.config.accumulate, self.images_per_batch
        if least % shares:
            raise InputError(
                f"batches of {least} cannot be cut in {shares} equal parts: give another --batch-size or --accumulate"
            )
        if least < 2 * shares:
            raise InputError(
                f"BatchNorm cannot train on batches of one image: give --batch-size and --limit-train {2 * shares} or more"
            )

    @cached_property
    def data_sha256(self) -> str:
        """Of the training and the validation images: a run goes on with no others."""
        return f"{self.train.sha256()} {self.val.sha256()}"

    @property
    def judged(self) -> Classifier:
        """The model that is validated and saved: the average, once there is one."""
        return self.average.model if self.average and self.average.updates else self.model

    @property
    def judged_twin(self) -> SearchTwin:
        return self.twin if self.judged is self.model else self.average_twin

    @property
    def share_done(self) -> float:
        """Of the whole run, in the middle of the batch to come."""
        return (self.epoch * self.num_batches + self.batch + 0.5) / (self.config.epochs * self.num_batches)

    @property
    def halves_attack(self) -> bool:
        """Whether a rollback cuts the attack's step; else it cuts the learning rate."""
        return self.inner is not None and "step_size" in self.inner.parameters

    @property
    def images_per_batch(self) -> int:
        return min(self.batch_size, len(self.train))

    @property
    def images_seen(self) -> int:
        return (self.epoch * self.num_batches + self.batch) * self.images_per_batch

    # One batch

    def batches(self, *, stream: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
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
        if not self.halves_attack:
            rate /= 2**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Callable[..., Tensor] = cross_entropy) -> Tensor:
        """The inner attack, crafted on the model's eval-mode twin, so that BatchNorm statistics stay the data's."""
        if self.inner is None:
            raise InputError(
                f"objective {self.config.objective} needs an attack: name one with --adv, such as --adv pgd, "
                "or give --objective standard"
            )
        return self.inner(self.twin, x, y, loss=loss, generator=self.generator, halvings=self.rollbacks)

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

    def note(self, loss: Loss, y: Tensor, seconds: float) -> None:
        """Counts a finished batch, without waiting for the device."""
        if isinstance(self.average, Ema):
            self.average.update(self.model)
        self.meter.add(loss, y, self.batch, seconds)
        self.batch += 1

    def check_finite(self) -> None:
        """Raises InputError where the loss of a batch of this epoch was not a number."""
        bad = int(self.meter.first_bad)
        if bad >= 0:
            kept = self.folder / "last.pt"
            raise InputError(
                f"the loss was no finite number in batch {bad + 1} of {self.num_batches} of epoch {self.epoch + 1}: "
                "lower --lr or give --clip 1" + (f"; {kept} keeps the last good state" if kept.exists() else "")
            )

    # Around an epoch

    def begin_epoch(self) -> None:
        self.model.train()
        keep_frozen_in_eval(self.still)

    def validate(self, count: int) -> dict[str, Any]:
        self.world.share_buffers(self.judged)
        return self.validation(count).measure(self.judged, self.judged_twin)

    @property
    def selected_by(self) -> str:
        robust = self.config.is_adversarial and self.val_attack is not None
        how = f"under {self.config.val_attack}" if robust else "without an attack"
        return f"accuracy {how} on {min(self.config.val_n, len(self.val))} validation images"

    @cached_property
    def chance(self) -> Chance:
        """What a model that has learned nothing reaches on the validation images."""
        labels = choose(self.val, min(self.config.val_n, len(self.val))).labels
        return Chance(len(labels), labels.bincount().max().item() / len(labels))


class _Objective(nn.Module):
    """The objective as a module, so that DistributedDataParallel wraps it and attacks see the raw model."""

    def __init__(self, model: nn.Module, objective: Callable[..., Loss]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        return self.objective(self.model, x, y, attack)


def load_val_attack(config: TrainConfig, threat: ThreatModel) -> Callable[..., Tensor] | None:
    """The attack of --val-attack; None for none. Raises InputError where it says nothing of robust accuracy."""
    if config.val_attack == "none":
        return None
    attack = load_whole(config.val_attack)
    threat.check_options(config.val_attack, plugins.resolved("attack", config.val_attack))
    if traits_of(attack).training_only:
        raise InputError(f"--val-attack {config.val_attack} leaves the ball, to train on: give pgd(steps=10)")
    if traits_of(attack).keeps_label:
        raise InputError(
            f"--val-attack {config.val_attack} keeps the label, so it says nothing of accuracy: give pgd(steps=10)"
        )
    return attack
