"""Clean and robust accuracy during training. The fast copy of the model makes the adversarial images; the fp32 model classifies
them."""

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
    """The loss or the logits are no longer finite."""


def validate(run: "Run", count: int) -> dict[str, Any]:
    """Measure the accuracies of the run's model: train_clean, val_clean, val_robust and val_fgsm.

    val_robust and val_fgsm are the fractions of images that are classified correctly both clean and under `val_attack` or FGSM;
    they are None without `val_attack`. Where training batches are attacked with another radius, train_robust is measured as
    val_robust is, on training images. The processes of the run divide the batches among themselves. Misclassified images stay
    in their batch, because batch sizes that vary cost memory: on the CPU an execution plan is kept for each size.

    count: number of images of each split, at most the size of the validation split.
    """
    model = run.state.eval_model
    run.world.share_buffers(model)
    attacks: tuple[Callable[..., Tensor], ...] = ()
    if run.val_attack:
        attacks = run.val_attack, plugins.load("attack", "fgsm")
    train_attack = run.val_attack if run.config.is_adversarial and not run.state.at_val_radius else None
    count = min(count, len(run.val))
    val, train, twin = choose(run.val, count), choose(run.train, count), run.state.twins[model]
    twin.refresh()

    def robust(attack: Callable[..., Tensor], start: int, x: Tensor, y: Tensor, correct: Tensor, stream: int) -> int:
        index = torch.arange(start, start + len(x))  # so that draws do not depend on batch and process
        generator = SampleGenerator.of(index, mix(run.config.seed, stream), x.device)
        x_adv = attack(twin, x, y, run.threat, generator=generator)
        return int((correct & (predict_labels(model(x_adv)) == y)).sum())

    # Images seen, correct and robust of train; images seen and correct of val; then robust images, per attack.
    counts = torch.zeros(5 + len(attacks), dtype=torch.float64)
    with frozen(model), uncompiled(), exact_fp32():
        for start, x, y in _batches(run, train):
            correct = _correct(model, x, y)
            counts[:2] += torch.tensor([len(y), int(correct.sum())])
            if train_attack:
                counts[2] += robust(train_attack, start, x, y, correct, 3)
        for start, x, y in _batches(run, val):
            correct = _correct(model, x, y)
            counts[3:5] += torch.tensor([len(y), int(correct.sum())])
            for stream, attack in enumerate(attacks, start=4):
                counts[stream + 1] += robust(attack, start, x, y, correct, stream)
    train_seen, train_correct, train_robust, val_seen, val_correct, *left = run.world.sum(counts).tolist()
    val_robust, val_fgsm = [number / val_seen for number in left] or (None, None)
    return {
        "train_clean": train_correct / train_seen,
        **({"train_robust": train_robust / train_seen} if train_attack else {}),
        "val_clean": val_correct / val_seen,
        "val_robust": val_robust,
        "val_fgsm": val_fgsm,
    }


def _correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether each image is classified correctly, bool N.

    An image for which the model predicts no class counts as misclassified. Raises Diverged where it predicts no class for any.
    """
    labels = predict_labels(model(x))
    if (labels == NO_ANSWER).all():
        raise Diverged("the model's logits are no longer finite numbers: lower `lr` or give `clip=1`")
    return labels == y


def _batches(run: "Run", images: Images) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield this process's part of the batches: the index of the first image, images, labels."""
    for start in run.world.mine(range(0, len(images), run.batch_size)):
        x, y = images.batch(slice(start, start + run.batch_size))
        yield start, x.contiguous(memory_format=torch.channels_last), y


def load_val_attack(config: TrainConfig, threat: ThreatModel) -> Callable[..., Tensor] | None:
    """Load the attack of `val_attack`; None for `none`. Raises InputError for an attack that cannot measure robust accuracy."""
    if config.val_attack == "none":
        return None
    attack = load_whole(config.val_attack)
    threat.check_options(config.val_attack, plugins.resolved("attack", config.val_attack))
    if traits_of(attack).training_only:
        raise InputError(
            f'`val_attack="{config.val_attack}"` is for training only, as it leaves the ball: give pgd(steps=10)'
        )
    if traits_of(attack).keeps_label:
        raise InputError(
            f'`val_attack="{config.val_attack}"` keeps the label, so it cannot measure robust accuracy: give pgd(steps=10)'
        )
    return attack
