"""Measure the loss of robust accuracy by quantisation, and choose the layers that must stay in floating point to limit it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcls.attacks._run import run_attack
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.progress import Bar, follow
from robustcls.core.threat import ThreatModel
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.statistics import paired_difference
from robustcls.runtime.predict import predict

ATTACK = "apgd_ce(steps=20, early_stop=False)"
BATCH = 32
HELD_OUT = 256  # number of training images on which the loss of robust accuracy is measured

Quantize = Callable[[Sequence[str], Path], list[str]]  # float layers, target -> all float layers


@dataclass
class RobustDrop:
    """The loss of robust accuracy against the source, in percentage points, on the same images under the same attacks."""

    points: float
    low: float  # 95% interval
    high: float
    n: int


@dataclass
class HeldOut:
    """N training images that are not used for calibration, with adversarial examples of the source model."""

    source: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    progress: bool = False

    def __post_init__(self) -> None:
        self.x_adv = self._attack(self.source)
        self.logits = predict(self.source, self.x_adv, BATCH)

    def drop(self, file: Path) -> RobustDrop:
        """Return the loss of robust accuracy of the file against the source."""
        before, after = (right.all(0) for right in self._right(OnnxNet(file)))
        difference, (low, high) = paired_difference(before.tolist(), after.tolist())
        return RobustDrop(0.0 - 100 * difference, 0.0 - 100 * high, 0.0 - 100 * low, len(self.y))

    def accuracies(self, other: nn.Module) -> dict[str, list[float]]:
        """Return the `clean` and `robust` accuracies of [the source, another model]."""
        right = self._right(other)
        return {
            "clean": [one[0].double().mean().item() for one in right],
            "robust": [one.all(0).double().mean().item() for one in right],
        }

    def error(self, file: Path) -> float:
        """Return the mean squared difference of the logits on the source's adversarial examples."""
        return (predict(OnnxNet(file), self.x_adv, BATCH) - self.logits).square().mean().item()

    def _attack(self, model: nn.Module) -> Tensor:
        return run_attack(
            model, self.x, self.y, self.threat, ATTACK, target=None, batch_size=BATCH, seed=self.seed, index=None,
            progress=self.progress,
        )  # fmt: skip

    def _right(self, other: nn.Module) -> list[Tensor]:
        """For the source and for another model, 3,N: which samples are classified correctly, as clean images, as adversarial
        examples of the source, and as adversarial examples of the other model."""
        every = (self.x, self.x_adv, self._attack(other))
        right = []
        for model in (self.source, other):
            with torch.no_grad(), frozen(model):
                right.append(torch.stack([predict_labels(predict(model, x, BATCH)) == self.y for x in every]))
        return right


def keep_robust(
    quantize: Quantize, target: Path, layers: Sequence[str], bound: float, held: HeldOut, say: Callable[[str], None]
) -> tuple[list[str], RobustDrop]:
    """Quantise, and put layers back to floating point, most harmful first, until the drop is within `bound` points.

    The harm of a layer is the decrease of the error of the logits on adversarial examples if only this layer stays in floating
    point.

    Args:
        quantize: writes the file with the given layers in floating point.
        target: path of the file; at the end it has the chosen layers in floating point.
        layers: names of the layers with weights.
        bound: largest drop of robust accuracy, in points.
        held: held-out images and the source model.
        say: is called with a line for each attempt.

    Returns:
        The names of all layers in floating point, and the drop of the final file.

    Raises:
        InputError: if the drop exceeds the bound even with every layer in floating point.
    """
    kept = quantize((), target)
    drop = held.drop(target)
    say(_line(drop, kept))
    if drop.points <= bound:
        return kept, drop
    trial = target.with_name("trial.onnx")
    base, gains = held.error(target), {}
    tried = [layer for layer in layers if layer not in kept]
    for layer in follow(tried, "measuring what each layer costs", "layer", show=held.progress):
        quantize((layer,), trial)
        gains[layer] = base - held.error(trial)
    trial.unlink(missing_ok=True)
    back: list[str] = []
    with Bar(len(gains), "putting layers back to floating point", "layer", show=held.progress) as bar:
        for layer in sorted(gains, key=gains.__getitem__, reverse=True):
            back.append(layer)
            kept = quantize(back, target)
            drop = held.drop(target)
            say(_line(drop, kept))
            bar.advance()
            if drop.points <= bound:
                return kept, drop
    raise InputError(
        f"8 bits cost {drop.points:.1f} points of robust accuracy, more than `max_robust_drop={bound:g}`, even with every "
        "layer in floating point: allow more, or leave out `quantize`"
    )


def _line(drop: RobustDrop, kept: Sequence[str]) -> str:
    return (
        f"robust accuracy falls by {drop.points:.1f} points [{drop.low:.1f}, {drop.high:.1f}] on {drop.n} held-out training "
        f"images with {len(kept)} layer{'' if len(kept) == 1 else 's'} in floating point: {', '.join(kept) or 'none'}"
    )
