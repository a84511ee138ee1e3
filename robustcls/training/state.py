"""The training state: the update of the model's weights, and everything that an update changes."""

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
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.core.traits import settled, takes, traits_of
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

PROGRESS = ("epoch", "batch", "best_score", "best_epoch", "rollbacks", "stopped")  # plain attributes, saved in last.pt


class TrainState:
    """Everything that training reads and changes from batch to batch.

    It is the StepContext that training steps, and objectives with the keyword `state`, receive. The randomness of every batch
    depends only on (seed, epoch, batch), so a resumed run needs no saved random state.
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
        """num_batches: batches per epoch. precision: fp32, bf16 or fp16, for forward and backward passes. adv: the inner
        attack as a function, in place of config.adv."""
        self.config, self.model, self.world = config, model, world or World()
        self.full_threat, self.ramp = threat, parse_ramp(config.eps_ramp) if config.eps_ramp else None
        # Only then can robust accuracy on training batches be compared with that of validation.
        self.at_val_radius = threat.eps == parse_eps(config.eps)  # type: ignore[arg-type]
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
        self.optimizer = make_optimizer(model, config, precision)
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
        self.meter = Meter(self.device)  # measures the current epoch
        self.rollbacks = 0
        self.stopped = ""  # why the run ended before its last epoch
        self.state: dict[str, Tensor] = {}  # what a step keeps from batch to batch

    # One update

    def train_step(self, x: Tensor, y: Tensor) -> Loss:
        """Train on one batch: x float32 N,C,H,W in [0, 1], y N or probabilities N,K. Does not wait for the device."""
        self.set_lr()
        loss = self.step(self, x, y)  # such as `once`: gradient, then update
        if self.average:
            self.average.after_update(self.model)
        whole = self.at_val_radius and self.threat is self.full_threat
        self.meter.add(loss, y, self.batch, whole=whole)
        self.batch += 1
        return loss

    def gradient(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        """Compute the gradients of the objective on the batch, in `accumulate` parts, into the parameters' `.grad`."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(zip(x.chunk(self.accumulate), y.chunk(self.accumulate), strict=True))
        losses = []
        for number, (images, labels) in enumerate(parts, start=1):
            together = number == len(parts) or self.world.size == 1  # all-reduce gradients only once
            with nullcontext() if together else self.forward.no_sync():  # type: ignore[operator]
                with nullcontext() if self.config.compile else small_convolutions(self.device), self.autocast():
                    loss = self.forward(images, labels, attack)  # the objective runs the attack, then the model
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
        """Run the inner attack and return the adversarial images.

        The model is in eval mode, so that adversarial images of the attack do not enter its BatchNorm statistics; its fast
        copy, if it has one, is attacked in its place. For an image without a label, the attack moves away from the class that
        the model predicts. Where the radius is 0 (see `eps_ramp`), x is returned.

        loss, reference: passed to the InnerAttack. through: a function that wraps the model, or its copy, in the module that
        is attacked.
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
        """Clip the gradients if `clip` is set, and take one optimizer step."""
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def followers(self, name: str) -> list[Tensor]:
        """Return the tensors that belong to the parameter of this name, in its shape: its average and its optimizer state."""
        parameter = self.model.get_parameter(name)
        averaged = [self.average.model.get_parameter(name)] if self.average else []
        momenta = self.optimizer.state.get(parameter, {}).values()
        return averaged + [each for each in momenta if isinstance(each, Tensor) and each.shape == parameter.shape]

    # Around an update

    def set_lr(self) -> None:
        """Set the learning rate of the next batch, by the schedule and the rollbacks so far."""
        rate = self.config.lr * self.schedule(self.share_done)
        if not self.halves_attack:
            rate /= 2**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]

    def seed(self, *values: int) -> None:
        """Seed the run's generator and PyTorch's global generators, from which dropout draws (see `own_random`).

        Each process gets a different seed.
        """
        seed = (mix(*values) + self.world.rank) % 2**63
        seed_global(seed, self.device)
        self.generator.manual_seed(seed)

    def train_mode(self) -> None:
        """Put the model in train mode, except the frozen modules."""
        self.model.train()
        keep_frozen_in_eval(self.frozen)

    def autocast(self) -> AbstractContextManager:
        return autocast(self.precision, self.device)

    @property
    def share_done(self) -> float:
        """The completed fraction of the whole run, in the middle of the next batch."""
        return (self.batches_done + 0.5) / (self.config.epochs * self.num_batches)

    @property
    def threat(self) -> ThreatModel:
        """The threat model of this batch: with the full radius, or with `eps_ramp` a part of it."""
        begin, end = self.ramp or (0.0, 0.0)
        if self.share_done >= end:
            return self.full_threat
        return self.full_threat.at(self.full_threat.eps * max(0.0, (self.share_done - begin) / (end - begin)))

    @property
    def batches_done(self) -> int:
        """Number of batches of the whole run that are done."""
        return self.epoch * self.num_batches + self.batch

    @property
    def halves_attack(self) -> bool:
        """Whether a rollback halves the attack's step size; otherwise it halves the learning rate."""
        return self.inner is not None and "step_size" in self.inner.parameters

    @property
    def growing(self) -> bool:
        """Whether this epoch begins before the attack has its full radius."""
        return self.epoch < (self.ramp or (0.0, 0.0))[1] * self.config.epochs

    @property
    def settled_epochs(self) -> list[Epoch]:
        """The epochs whose losses can be compared. While a radius of the loss grows, so does the loss."""
        begin = max((self.ramp or (0.0, 0.0))[1], settled(self.objective))
        return [one for one in self.history if one.epoch - 1 >= begin * self.config.epochs]

    @property
    def eval_model(self) -> Classifier:
        """The model that is validated and saved: the average, once there is one."""
        return self.average.model if self.average and self.average.updates else self.model

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or the run was stopped early."""
        return self.epoch >= self.config.epochs or bool(self.stopped)

    # Saved and restored

    def state_dict(self) -> dict[str, Any]:
        """Return everything that resuming needs: primitives, and tensors, most of which share memory with this state."""
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
        """Restore what `state_dict` returned. Raises InputError for weights of another architecture."""
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
    """The objective as a module, so that DistributedDataParallel wraps the objective while attacks see the raw model."""

    def __init__(self, model: nn.Module, objective: Callable[..., Loss]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        return self.objective(self.model, x, y, attack)


@contextmanager
def own_random(device: torch.device) -> Iterator[None]:
    """Restore PyTorch's global random states, of the CPU and of this device, at the end of the block."""
    with torch.random.fork_rng(
        [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    ):
        yield


def seed_global(seed: int, device: torch.device) -> None:
    """Seed PyTorch's global generators of the CPU and of this device only; `torch.manual_seed` would seed every device."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
