"""A detector beside a classifier: predictions for images whose score exceeds a threshold are rejected."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError, as_input_error

HELD_OUT = 1000  # maximum number of images for choosing the threshold
Score = Callable[
    [Tensor, Tensor], Tensor
]  # images N,C,H,W in [0, 1] and logits N,K -> scores N; larger is more suspicious


@dataclass
class Detector:
    """A score with its threshold: the smallest one that at most a share `fpr` of clean held-out images exceeds."""

    score: Score
    name: str
    fpr: float
    threshold: float = math.nan
    spread: float = 1.0  # standard deviation of the scores of clean images: the unit in which attacks measure scores
    held_out: int = 0  # number of held-out images
    above: int = 0  # number of held-out images above the threshold

    @torch.no_grad()
    def fit(self, model: nn.Module, images: Tensor, batch_size: int = 64) -> "Detector":
        """Choose the threshold on images N,C,H,W that are not used for evaluation. Raises InputError."""
        device, parts = device_of(model), images.split(batch_size)
        scores = torch.cat(
            [
                self._scores(x, model(x.clone()).float()).cpu()
                for x in (part.to(device, torch.float32) for part in parts)
            ]
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
        """Return (score - threshold) / spread: N. Where it exceeds 0, the prediction is rejected."""
        return (self._scores(x, logits) - self.threshold) / self.spread

    @torch.no_grad()
    def rejects(self, x: Tensor, logits: Tensor) -> Tensor:
        """Whether the score exceeds the threshold or is NaN: N, bool."""
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
    """Return a detector with a threshold chosen for the model on clean held-out images N,C,H,W. Raises InputError."""
    if isinstance(score, str):
        module, colon, name = score.partition(":")
        if not colon:
            raise InputError(f"detector {score!r} is no function: write it as package.module:score, as `detector`")
        return Detector(plugins.import_dotted("detector", module, name), score, fpr).fit(model, images)
    if not callable(score):
        raise InputError(f"detector {score!r:.40} is no function: give one of images and logits")
    return Detector(score, getattr(score, "__name__", type(score).__name__), fpr).fit(model, images)
