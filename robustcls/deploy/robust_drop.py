"""How much robust accuracy 8 bits cost, and which layers must stay in floating point to keep the loss within bounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcls.attacks._run import run_attack
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.threat import ThreatModel
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.statistics import paired_difference
from robustcls.runtime.predict import predict

ATTACK = "apgd_ce(steps=20, early_stop=False)"
BATCH = 32
HELD_OUT = 256  # training images on which the loss of robust accuracy is measured

Quantize = Callable[[Sequence[str], Path], list[str]]  # float layers, target -> all float layers


@dataclass
class RobustDrop:
    """Robust accuracy that a model lacks of its source's, in points, on the same images under the same attacks."""

    points: float
    low: float  # 95% interval
    high: float
    n: int
    clean: tuple[float, float]  # accuracy of the source, of the other
    robust: tuple[float, float]


@dataclass
class HeldOut:
    """Training images that were not calibrated on, with the source's examples of them; N samples."""

    source: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int

    def __post_init__(self) -> None:
        self.x_adv = self._attack(self.source)
        self.logits = predict(self.source, self.x_adv, BATCH)

    def drop(self, file: Path) -> RobustDrop:
        """What the file lacks."""
        return self.compare(OnnxNet(file))

    def compare(self, other: nn.Module) -> RobustDrop:
        """Both models meet the examples that the attack makes on either."""
        every = (self.x, self.x_adv, self._attack(other))
        right = [self._right(model, every) for model in (self.source, other)]
        before, after = (one.all(0) for one in right)
        difference, (low, high) = paired_difference(before.tolist(), after.tolist())
        clean = [one[0].double().mean().item() for one in right]
        robust = [one.double().mean().item() for one in (before, after)]
        return RobustDrop(
            -100 * difference, -100 * high, -100 * low, len(self.y), (clean[0], clean[1]), (robust[0], robust[1])
        )

    def error(self, file: Path) -> float:
        """Mean squared difference of the logits on the source's adversarial examples."""
        return (predict(OnnxNet(file), self.x_adv, BATCH) - self.logits).square().mean().item()

    def _attack(self, model: nn.Module) -> Tensor:
        return run_attack(
            model, self.x, self.y, self.threat, ATTACK, target=None, batch_size=BATCH, seed=self.seed, index=None,
            progress=False,
        )  # fmt: skip

    def _right(self, model: nn.Module, every: Sequence[Tensor]) -> Tensor:
        """Whether each of these sets, by row, is classified correctly."""
        with torch.no_grad(), frozen(model):
            return torch.stack([predict_labels(predict(model, x, BATCH)) == self.y for x in every])


def keep_robust(
    quantize: Quantize, target: Path, layers: Sequence[str], bound: float, held: HeldOut, say: Callable[[str], None]
) -> tuple[list[str], RobustDrop]:
    """Quantise, and put layers back to floating point, most harmful first, until the drop is within `bound` points.

    What a layer harms is the error of the logits on adversarial examples that goes where it alone stays in floating point.

    Args:
        quantize: writes the file with these layers in floating point.
        target: of the file; at the end the one that was chosen.
        layers: that hold weights.
        held: images and the source.
        say: is told each attempt.

    Returns:
        All layers in floating point, and the drop of the file that was kept, within bounds or of all layers but none.
    """
    kept = quantize((), target)
    drop = held.drop(target)
    say(_line(drop, kept))
    if drop.points <= bound:
        return kept, drop
    trial = target.with_name("trial.onnx")
    base, gains = held.error(target), {}
    for layer in [layer for layer in layers if layer not in kept]:
        quantize((layer,), trial)
        gains[layer] = base - held.error(trial)
    trial.unlink(missing_ok=True)
    back: list[str] = []
    for layer in sorted(gains, key=gains.__getitem__, reverse=True):
        back.append(layer)
        kept = quantize(back, target)
        drop = held.drop(target)
        say(_line(drop, kept))
        if drop.points <= bound:
            break
    return kept, drop


def _line(drop: RobustDrop, kept: Sequence[str]) -> str:
    return (
        f"robust accuracy falls by {drop.points:.1f} points [{drop.low:.1f}, {drop.high:.1f}] on {drop.n} held-out training "
        f"images with {len(kept)} layer{'' if len(kept) == 1 else 's'} in floating point: {', '.join(kept) or 'none'}"
    )
