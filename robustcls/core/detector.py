"""A detector beside a classifier: a score of images, above whose threshold an answer is refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError, as_input_error

HELD_OUT = 1000  # images at most on which a threshold is chosen
Score = Callable[
    [Tensor, Tensor], Tensor
]  # images N,C,H,W in [0, 1] and their logits N,K to N; larger is more suspicious


@dataclass
class Detector:
    """A score with its threshold, the least that at most `fpr` of clean held-out images exceed."""

    score: Score
    name: str
    fpr: float
    threshold: float = math.nan
    spread: float = 1.0  # of the scores of clean images: what an attack measures them in
    held_out: int = 0  # images
    above: int = 0  # of them

    @torch.no_grad()
    def fit(self, model: nn.Module, images: Tensor, batch_size: int = 64) -> "Detector":
        """Chooses the threshold, on images N,C,H,W that nothing else is evaluated on. Raises InputError."""
        parts = images.to(torch.float32).split(batch_size)
        scores = torch.cat(
            [self._scores(x, model(x.clone()).float()).cpu() for x in (part.to(device_of(model)) for part in parts)]
        )
        if not scores.isfinite().all():
            raise InputError(f"detector {self.name} gives scores of clean images that are not finite: give numbers")
        n, ordered = len(scores), scores.sort(descending=True).values
        if self.fpr * n < 1:
            raise InputError(
                f"`fpr={self.fpr:g}` is less than one of {n} held-out images: give {math.ceil(1 / self.fpr)} images or more"
            )
        self.threshold = ordered[math.floor(self.fpr * n + 1e-9)].item()
        self.spread = max(scores.std().item(), 1e-12) if n > 1 else 1.0
        self.held_out, self.above = n, int((scores > self.threshold).sum())
        return self

    def excess(self, x: Tensor, logits: Tensor) -> Tensor:
        """The score less the threshold, in spreads of clean scores; above 0 the answer is refused: N."""
        return (self._scores(x, logits) - self.threshold) / self.spread

    @torch.no_grad()
    def rejects(self, x: Tensor, logits: Tensor) -> Tensor:
        """N, bool: above the threshold, or no number."""
        return ~(self.excess(x, logits) <= 0)

    def _scores(self, x: Tensor, logits: Tensor) -> Tensor:
        with as_input_error(f"detector {self.name} failed"):
            scores = self.score(x, logits)
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if shape != (len(x),) or not scores.is_floating_point():
            raise InputError(
                f"detector {self.name} gives {shape} for images {tuple(x.shape)} and logits {tuple(logits.shape)}: "
                "give a float score per image, N"
            )
        return scores.float()


def make_detector(score: str | Score, fpr: float, model: nn.Module, images: Tensor) -> Detector:
    """The detector with its threshold for the model, chosen on clean held-out images N,C,H,W. Raises InputError."""
    if isinstance(score, str):
        module, colon, name = score.partition(":")
        if not colon:
            raise InputError(f"detector {score!r} is no function: write it as package.module:score, as `detector`")
        return Detector(plugins.import_dotted("detector", module, name), score, fpr).fit(model, images)
    if not callable(score):
        raise InputError(f"detector {score!r:.40} is no function: give one of images and logits")
    return Detector(score, getattr(score, "__name__", type(score).__name__), fpr).fit(model, images)
