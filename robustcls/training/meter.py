"""Training loss, accuracy and speed over an epoch, measured on the training batches."""

from typing import Any

import torch
from torch import Tensor

from robustcls.core.losses import UNLABELLED, hard_labels, predict_labels
from robustcls.core.objective import Loss
from robustcls.runtime.world import World


class Meter:
    """Sums of the loss and of correct predictions, images and labelled images over an epoch, kept on the device.

    `first_bad` is the number of the first batch whose loss is not finite, or -1.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        self.sums = {name: self._tensor(0) for name in ("loss", "right", "seen", "labelled")}
        self.parts: dict[str, Tensor] = {}
        self.first_bad = torch.full((), -1, device=self.device)
        self.seconds = 0.0
        self.attacked = False  # whether the logits are those of adversarial images
        self.whole = True  # whether all attacks of this epoch had the full radius

    @torch.no_grad()
    def add(self, loss: Loss, y: Tensor, batch: int, *, whole: bool = True) -> None:
        """Add a batch: its loss, its labels y and its number in the epoch.

        whole: whether the attack had the full radius. Accuracy under a smaller radius is not reported as robust accuracy.
        """
        total = loss.total.detach().double()
        self.sums["loss"] += total * len(y)
        self.sums["right"] += (predict_labels(loss.logits) == hard_labels(y)).sum()
        self.sums["seen"] += len(y)
        self.sums["labelled"] += (hard_labels(y) != UNLABELLED).sum()
        for name, value in loss.parts.items():
            self.parts[name] = self.parts.get(name, 0) + value.detach().double() * len(y)
        self.first_bad = torch.where((self.first_bad < 0) & ~total.isfinite(), batch, self.first_bad)
        self.attacked, self.whole = loss.seen == "adversarial", self.whole and whole

    def means(self, world: World) -> dict[str, Any]:
        """Return the fields of an Epoch that training measures, over all processes."""
        loss, right, seen, labelled = (world.total(value) for value in self.sums.values())
        return {
            "train_loss": loss / seen,
            "train_robust": right / labelled if self.attacked and self.whole else None,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(seen / self.seconds, 1),
            "parts": {name: world.total(value) / seen for name, value in self.parts.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as primitives, for last.pt."""
        sums, parts = ({name: float(value) for name, value in each.items()} for each in (self.sums, self.parts))
        return {"sums": sums, "parts": parts, "seconds": self.seconds, "attacked": self.attacked, "whole": self.whole}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        self.reset()
        self.sums, self.parts = (
            {name: self._tensor(value) for name, value in content[each].items()} for each in ("sums", "parts")
        )
        if "labelled" not in self.sums:  # last.pt of an older version, in which every image had a label
            self.sums["labelled"] = self.sums["seen"].clone()
        self.seconds, self.attacked, self.whole = content["seconds"], content["attacked"], content.get("whole", True)

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, device=self.device)
