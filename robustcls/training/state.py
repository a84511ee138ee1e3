"""A model in training: an update of its weights, and everything that an update changes."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import cross_entropy
from robustcls.core.objective import BoundAttack, Loss
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes, traits_of
from robustcls.models.checkpoint import load_weights
from robustcls.models.transfer import freeze, keep_frozen_in_eval
from robustcls.results.records import Epoch
from robustcls.runtime.device import autocast
from robustcls.runtime.fused import FusedModel
from robustcls.runtime.small_images import small_convolutions
from robustcls.runtime.world import World
from robustcls.training.averages import Average, Ema, Swa
from robustcls.training.config import TrainConfig, parse_ramp
from robustcls.training.inner_attack import InnerAttack, self_labelled
from robustcls.training.meter import Meter
from robustcls.training.optimizer import make_optimizer

PROGRESS = ("epoch", "batch", "best_score", "best_epoch", "rollbacks", "stopped")  # plain values, in last.pt by name


class TrainState:
    """What training reads and changes from batch to batch; a StepContext for steps, and for objectives that ask for it.

    Every batch draws its randomness from (seed, epoch, batch) alone, so a resumed run needs no random state.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Classifier,
        threat: ThreatModel,
        *,
        num_batches: int,
        precision: str = "fp32",
        world: World | None = None,
        adv: plugins.AnyPlugin | None = None,
    ) -> None:
        """num_batches: of an epoch. precision: fp32, bf16 or fp16, of forward and backward passes. adv: in place of
        config.adv, the inner attack as a function."""
        self.config, self.model, self.world = config, model, world or World()
        self.full_threat, self.ramp = threat, parse_ramp(config.eps_ramp) if config.eps_ramp else None
        self.num_batches, self.precision, self.device = num_batches, precision, device_of(model)
        self.accumulate = config.accumulate

        self.step: Callable[..., Loss] = plugins.load("step", config.step)
        self.schedule = plugins.load("schedule", config.schedule)
        inner = adv or config.adv
        self.inner = InnerAttack(inner, config.objective or "", threat) if inner not in (None, "none") else None
        self.frozen = freeze(model, config.freeze)
        self.frozen += plugins.load("tune", config.tune)(model, torch.Generator().manual_seed(config.seed))
        self.average: Average | None = (
            Ema(model, config.ema) if config.ema else Swa(model, config.swa, self.frozen) if config.swa else None
        )
        models = [model, self.average.model] if self.average else [model]
        self.twins: dict[nn.Module, FusedModel] = {each: FusedModel(each, precision) for each in models}
        self.optimizer = make_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.generator = torch.Generator(self.device)
        if config.compile:
            model.compile()
        if config.compile or config.cuda_graphs:
            self.twins[model].compile_copy(cuda_graphs=config.cuda_graphs)
        objective = plugins.load("objective", config.objective or "standard")
        self.objective = partial(objective, state=self) if takes(objective, "state") else objective
        self.forward = self.world.parallel(_Forward(model, self.objective))

        self.epoch = self.batch = 0  # the next batch to train on
        self.history: list[Epoch] = []
        self.best_score, self.best_epoch = (-1.0, -1.0), 0
        self.meter = Meter(self.device)  # of this epoch
        self.rollbacks = 0
        self.stopped = ""  # why the run ended before its last epoch
        self.state: dict[str, Tensor] = {}  # what a step keeps from batch to batch

    # One update

    def train_step(self, x: Tensor, y: Tensor) -> Loss:
        """Trains on one batch: x float32 N,C,H,W in [0, 1], y N or probabilities N,K. Does not wait for the device."""
        self.set_lr()
        loss = self.step(self, x, y)  # such as `once`: gradient, then update
        if self.average:
            self.average.after_update(self.model)
        self.meter.add(loss, y, self.batch, whole=self.threat is self.full_threat)
        self.batch += 1
        return loss

    def gradient(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        """Fills the parameters' gradients with those of the objective on the batch, part by part with `accumulate`."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True))
        losses = []
        for number, (images, labels) in enumerate(parts, start=1):
            together = number == len(parts) or self.world.size == 1  # the processes add up their gradients once
            with nullcontext() if together else self.forward.no_sync():  # type: ignore[operator]
                with nullcontext() if self.config.compile else small_convolutions(self.device), self.autocast():
                    loss = self.forward(images, labels, attack)  # the objective: it attacks, then passes forward
                self.scaler.scale(loss.total / len(parts)).backward()
            losses.append(loss)
        return losses[0] if len(losses) == 1 else Loss.mean(losses)

    def attack(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        loss: Callable[..., Tensor] = cross_entropy,
        reference: Tensor | None = None,
        through: Callable[[nn.Module], nn.Module] | None = None,
    ) -> Tensor:
        """The inner attack on a model in eval mode, so that BatchNorm's statistics stay the data's: on its fast twin if
        it has one. An image without a label is attacked away from the model's own. Within a radius of 0 there is none.

        through: of the model, or of its twin, what is attacked in its place.
        """
        if self.inner is None:
            raise InputError(
                f'objective {self.config.objective} needs an attack: name one, such as `adv="pgd"`, or give '
                '`objective="standard"`'
            )
        threat = self.threat
        if threat.eps == 0 < self.full_threat.eps:
            return x
        twin = self.twins.get(model)
        if twin:
            twin.refresh()
        with nullcontext(twin) if twin else frozen(model) as attacked:
            attacked = through(attacked) if through else attacked
            if self.config.without_labels and reference is None and not traits_of(loss).reference:
                y = self_labelled(attacked, x, y)
            return self.inner(
                attacked,
                x,
                y,
                threat,
                loss=loss,
                reference=reference,
                generator=self.generator,
                halvings=self.rollbacks,
            )

    def update(self) -> None:
        """One step of the optimizer along the gradients, clipped where that was asked."""
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def followers(self, name: str) -> list[Tensor]:
        """What goes along with the parameter of this name, in its shape: the optimizer's momenta, the weights' average."""
        parameter = self.model.get_parameter(name)
        averaged = [self.average.model.get_parameter(name)] if self.average else []
        momenta = self.optimizer.state.get(parameter, {}).values()
        return averaged + [each for each in momenta if isinstance(each, Tensor) and each.shape == parameter.shape]

    # Around it

    def set_lr(self) -> None:
        rate = self.config.lr * self.schedule(self.share_done)
        if not self.halves_attack:
            rate /= 2**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def seed(self, *values: int) -> None:
        """Begins the random streams of these values, another in each process: the run's own, and the global ones, from
        which dropout draws (see `own_random`)."""
        seed = (mix(*values) + self.world.rank) % 2**63
        seed_global(seed, self.device)
        self.generator.manual_seed(seed)

    def train_mode(self) -> None:
        self.model.train()
        keep_frozen_in_eval(self.frozen)

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    @property
    def share_done(self) -> float:
        """Of the whole run, in the middle of the batch to come."""
        return (self.batches_done + 0.5) / (self.config.epochs * self.num_batches)

    @property
    def threat(self) -> ThreatModel:
        """What the attack may do in this batch: the whole radius, or with `eps_ramp` a part of it."""
        begin, end = self.ramp or (0.0, 0.0)
        if self.share_done >= end:
            return self.full_threat
        return self.full_threat.at(self.full_threat.eps * max(0.0, (self.share_done - begin) / (end - begin)))

    @property
    def batches_done(self) -> int:
        """Of the whole run."""
        return self.epoch * self.num_batches + self.batch

    @property
    def halves_attack(self) -> bool:
        """Whether a rollback cuts the attack's step; else it cuts the learning rate."""
        return self.inner is not None and "step_size" in self.inner.parameters

    @property
    def eval_model(self) -> Classifier:
        """The model that is validated and saved: the average, once there is one."""
        return self.average.model if self.average and self.average.updates else self.model

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.epochs or bool(self.stopped)

    # Saved and restored

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs: tensors, most of them shared with the state, and primitives."""
        return {
            "state_dict": self.model.net.state_dict(),
            "mean": self.model.mean.flatten().tolist(),
            "std": self.model.std.flatten().tolist(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average
            and {"updates": self.average.updates, "state_dict": self.average.model.state_dict()},
            "steps": {name: value.cpu() for name, value in self.state.items()},
            "meter": self.meter.state_dict(),
            "progress": {name: getattr(self, name) for name in PROGRESS},
            "history": [dataclasses.asdict(row) for row in self.history],
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Goes back to what `state_dict` gave. Raises InputError for weights of another architecture."""
        load_weights(self.model.net, content["state_dict"], "last.pt")
        for buffer, values in ((self.model.mean, content["mean"]), (self.model.std, content["std"])):
            buffer.copy_(torch.as_tensor(values).view_as(buffer))
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average:
            self.average.updates = content["average"]["updates"]
            load_weights(self.average.model, content["average"]["state_dict"], "last.pt")
        self.state = {name: value.to(self.device) for name, value in content["steps"].items()}
        self.meter.load_state_dict(content["meter"])
        for name in PROGRESS:
            setattr(self, name, content["progress"][name])
        self.history = [Epoch(**row) for row in content["history"]]


class _Forward(nn.Module):
    """The objective as a module, so that DistributedDataParallel wraps it and attacks see the raw model."""

    def __init__(self, model: nn.Module, objective: Callable[..., Loss]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        return self.objective(self.model, x, y, attack)


@contextmanager
def own_random(device: torch.device) -> Iterator[None]:
    """PyTorch's global random streams are at the end as they were before."""
    with torch.random.fork_rng(
        [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    ):
        yield


def seed_global(seed: int, device: torch.device) -> None:
    """PyTorch's streams of the CPU and of this device alone; `torch.manual_seed` would begin those of every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
