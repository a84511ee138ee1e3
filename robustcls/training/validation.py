"""Clean and robust accuracy while training: adversarial images come from the fast twin, the fp32 model decides."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

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
from robustcls.runtime.fused import uncompiled
from robustcls.training.config import TrainConfig
from robustcls.training.inner_attack import load_whole

if TYPE_CHECKING:
    from robustcls.training.run import Run


class Diverged(InputError):
    """The loss or the logits are no finite numbers any more."""


def validate(run: "Run", count: int) -> dict[str, Any]:
    """The shares of images that the run's model classifies correctly: train_clean, val_clean, val_robust, val_fgsm.

    The last two: both clean and under the attack; None without `val_attack`. The processes of the run share the batches.
    count: images chosen of each split, if val has so many. Misclassified images stay in their batch: sizes that vary cost
    memory (a CPU keeps a plan for each).
    """
    model = run.state.eval_model
    run.world.share_buffers(model)
    attacks: tuple[Callable[..., Tensor], ...] = ()
    if run.val_attack:
        attacks = run.val_attack, plugins.load("attack", "fgsm")
    count = min(count, len(run.val))
    val, train, twin = choose(run.val, count), choose(run.train, count), run.state.twins[model]
    twin.refresh()
    counts = torch.zeros(4 + len(attacks), dtype=torch.float64)  # seen and correct: train, val; then attacks
    with frozen(model), uncompiled(), exact_fp32():
        for _, x, y in _batches(run, train):
            counts[:2] += torch.tensor([len(y), int(_correct(model, x, y).sum())])
        for start, x, y in _batches(run, val):
            correct = _correct(model, x, y)
            counts[2:4] += torch.tensor([len(y), int(correct.sum())])
            index = torch.arange(start, start + len(x))  # the same in whatever batch and process
            for place, attack in enumerate(attacks, start=4):
                generator = SampleGenerator.of(index, mix(run.config.seed, place), x.device)
                x_adv = attack(twin, x, y, run.threat, generator=generator)
                counts[place] += int((correct & (predict_labels(model(x_adv)) == y)).sum())
    train_seen, train_correct, val_seen, clean, *robust = run.world.sum(counts).tolist()
    val_robust, val_fgsm = [number / val_seen for number in robust] or (None, None)
    return {
        "train_clean": train_correct / train_seen,
        "val_clean": clean / val_seen,
        "val_robust": val_robust,
        "val_fgsm": val_fgsm,
    }


def _correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """N. A model that predicts no class for any image has diverged; for some images, these are misclassified."""
    labels = predict_labels(model(x))
    if (labels == NO_ANSWER).all():
        raise Diverged("the model's logits are no finite numbers any more: lower `lr` or give `clip=1`")
    return labels == y


def _batches(run: "Run", images: Images) -> Iterator[tuple[int, Tensor, Tensor]]:
    """This process's share of the batches, with where they start."""
    for start in run.world.mine(range(0, len(images), run.batch_size)):
        x, y = images.batch(slice(start, start + run.batch_size))
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
