"""Clean and robust accuracy while training: examples come of the fast twin, the fp32 model decides."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.draws import SampleGenerator
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.runtime.device import exact_fp32
from robustcls.runtime.fused import FusedModel, uncompiled
from robustcls.runtime.world import World
from robustcls.training.config import TrainConfig
from robustcls.training.inner_attack import load_whole


class Validation:
    """Measures a model on validation images, clean and under attacks, shared out among the processes of a world."""

    def __init__(
        self,
        val: Images,
        train: Images,
        attacks: Mapping[str, Callable[..., Tensor]],
        threat: ThreatModel,
        *,
        batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        """attacks: by the name of what they measure."""
        self.val, self.train, self.attacks, self.threat = val, train, attacks, threat
        self.batch_size, self.seed, self.world = batch_size, seed, world

    def measure(self, model: nn.Module, twin: FusedModel, count: int) -> dict[str, Any]:
        """Shares of images that are right: train_clean, val_clean, and right both clean and under each attack.

        count: images chosen of each split, if val has so many. val_robust and val_fgsm are None where they are not among
        the attacks. Misclassified images stay in their batch: sizes that vary cost memory (a CPU keeps a plan for each).
        """
        count = min(count, len(self.val))
        val, train = choose(self.val, count), choose(self.train, count)
        twin.refresh()
        counts = torch.zeros(4 + len(self.attacks), dtype=torch.float64)  # seen and right: train, val; then attacks
        with frozen(model), uncompiled(), exact_fp32():
            for _, x, y in self._batches(train):
                counts[:2] += torch.tensor([len(y), int(self._right(model, x, y).sum())])
            for start, x, y in self._batches(val):
                right = self._right(model, x, y)
                counts[2:4] += torch.tensor([len(y), int(right.sum())])
                index = torch.arange(start, start + len(x))  # the same in whatever batch and process
                for place, attack in enumerate(self.attacks.values(), start=4):
                    generator = SampleGenerator.of(index, mix(self.seed, place), x.device)
                    x_adv = attack(twin, x, y, self.threat, generator=generator)
                    counts[place] += int((right & (predict_labels(model(x_adv)) == y)).sum())
        train_seen, train_right, val_seen, *rights = self.world.sum(counts).tolist()
        names = ("val_clean", *self.attacks)
        shares = {name: n / val_seen for name, n in zip(names, rights, strict=True)}
        return {"train_clean": train_right / train_seen, "val_robust": None, "val_fgsm": None} | shares

    def _right(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """N. A model that names no class for any image has diverged; for some images, these are wrong answers."""
        labels = predict_labels(model(x))
        if (labels == NO_ANSWER).all():
            raise InputError("the model's logits are no finite numbers any more: lower `lr` or give `clip=1`")
        return labels == y

    def _batches(self, images: Images) -> Iterator[tuple[int, Tensor, Tensor]]:
        """This process's share of the batches, with where they start."""
        for start in self.world.mine(range(0, len(images), self.batch_size)):
            x, y = images.batch(slice(start, start + self.batch_size))
            yield start, x.contiguous(memory_format=torch.channels_last), y


def load_val_attack(config: TrainConfig, threat: ThreatModel) -> Callable[..., Tensor] | None:
    """The attack of `val_attack`; None for none. Raises InputError where it says nothing of robust accuracy."""
    if config.val_attack == "none":
        return None
    attack = load_whole(config.val_attack)
    threat.check_options(config.val_attack, plugins.resolved("attack", config.val_attack))
    if traits_of(attack).training_only:
        raise InputError(f'`val_attack="{config.val_attack}"` leaves the ball, to train on: give pgd(steps=10)')
    if traits_of(attack).keeps_label:
        raise InputError(
            f'`val_attack="{config.val_attack}"` keeps the label, so it says nothing of accuracy: give pgd(steps=10)'
        )
    return attack
