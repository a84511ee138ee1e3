"""Clean and robust accuracy while training: searched on the fast twin, judged by the fp32 model."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.runtime.search import SearchTwin, uncompiled
from robustcls.runtime.world import World


class Validation:
    """The images that judge a run after each epoch, and the attacks that do; shared out among the processes of a world."""

    def __init__(
        self,
        val: Images,
        train: Images,
        count: int,
        attacks: Mapping[str, Callable[..., Tensor]],
        threat: ThreatModel,
        *,
        batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        """count: images chosen of each, if val has so many. attacks: by the name of what they measure."""
        count = min(count, len(val))
        self.val, self.train = (self._share(choose(images, count), world) for images in (val, train))
        self.attacks = {name: stopping_early(attack) for name, attack in attacks.items()}
        self.threat, self.batch_size, self.seed, self.world = threat, batch_size, seed, world

    @staticmethod
    def _share(images: Images, world: World) -> Images:
        return images.take(torch.arange(len(images))[world.rank :: world.size])

    def measure(self, model: nn.Module, twin: SearchTwin) -> dict[str, Any]:
        """Shares of images that are right: train_clean, val_clean, and right both clean and under each attack."""
        twin.refresh()
        counts = torch.zeros(4 + len(self.attacks), dtype=torch.float64)  # seen and right: train, val; then attacks
        generator = Generator(self.val.pixels.device).manual_seed(self.seed)
        with frozen(model), uncompiled():
            for x, y in self._batches(self.train):
                counts[0] += len(y)
                counts[1] += self._right(model, x, y).sum().cpu()
            for x, y in self._batches(self.val):
                right = self._right(model, x, y)
                counts[2] += len(y)
                counts[3] += right.sum().cpu()
                x, y = x[right], y[right]
                for place, attack in enumerate(self.attacks.values(), start=4):
                    if len(y):
                        x_adv = attack(twin, x, y, self.threat, generator=generator)
                        counts[place] += self._right(model, x_adv, y).sum().cpu()
        train_seen, train_right, val_seen, *rights = self.world.sum(counts).tolist()
        names = ("val_clean", *self.attacks)
        return {"train_clean": train_right / train_seen} | {
            name: n / val_seen for name, n in zip(names, rights, strict=True)
        }

    @torch.no_grad()
    def _right(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x)
        if not logits.isfinite().all():
            raise InputError("the model's logits are no finite numbers any more: lower --lr or give --clip 1")
        return logits.argmax(1) == y

    def _batches(self, images: Images):
        for x, y in zip(images.pixels.split(self.batch_size), images.labels.split(self.batch_size), strict=True):
            yield (x.float() / 255).contiguous(memory_format=torch.channels_last), y


def stopping_early(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The attack, told that a fooled image may leave it at once, where it can be told so."""
    said = getattr(attack, "keywords", {})  # of a spec that says it itself
    takes = inspect.signature(attack).parameters
    return partial(attack, early_stop=True) if "early_stop" in takes and "early_stop" not in said else attack
