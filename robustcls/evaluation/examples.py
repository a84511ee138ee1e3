"""Clean images and the worst that the attacks made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from robustcls.core.files import atomic_write
from robustcls.core.losses import NO_ANSWER
from robustcls.results.records import Sample

E = TypeVar("E", bound="Examples")


@dataclass(kw_only=True)
class Examples:
    """N samples with the verified adversarial example of each, or the strongest attempt where none was found."""

    x: Tensor  # N,C,H,W in [0, 1]
    y: Tensor  # N, labels
    index: Tensor  # N, positions in the split
    clean: Tensor  # N, predicted classes of x; NO_ANSWER where the logits name none, or a detector refuses one
    x_adv: Tensor  # N,C,H,W: the verified example; else the strongest attempt; x where that is misclassified already
    adversarial: Tensor  # N, predicted classes after the attacks
    distance: Tensor  # N, of x_adv from x in the threat model's norm
    margin: Tensor  # N, of x_adv: how far another logit is above the label's; -inf before any attempt
    breaker: Tensor  # N, number of the attack that succeeded first, -1 for none
    names: list[str]  # of the attacks
    succeeded: Tensor | None = None  # attacks,N: which attack succeeds, where every attack met every sample
    nearest: dict[str, Tensor] = field(default_factory=dict)  # of minimum-norm attacks: N distances, NaN for none found
    files: Sequence[str] | None = None  # N names, of data that are files
    target: Tensor | None = None  # N classes that alone count as success; None: any but the label

    @property
    def correct(self) -> Tensor:
        """N, bool: the clean image is classified as its label."""
        return self.clean == self.y

    @property
    def success(self) -> Tensor:
        """N, bool: a verified adversarial example was found."""
        return self.breaker >= 0

    @property
    def robust(self) -> Tensor:
        """N, bool: correct, and no attack succeeded."""
        return self.correct & ~self.success

    @property
    def broken_by(self) -> list[str | None]:
        """N names of the attack that succeeded first."""
        return [self.names[number] if number >= 0 else None for number in self.breaker.tolist()]

    def to(self: E, device: torch.device | str) -> E:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        moved["nearest"] = {name: value.to(device) for name, value in self.nearest.items()}
        return replace(self, **moved)

    def save(self, path: str | Path, *, option: str = "`path`") -> int:
        """Writes the verified adversarial examples, and them alone, as npz; returns how many there are.

        x, x_adv: float32 N,C,H,W in [0, 1]; y, index: N; broken_by: the name of the attack, N; files: their names, N, of
        data that are files; target: N, of attacks that aim at a class. option: what named the path. Raises InputError where
        it cannot be written.
        """
        success = self.success.cpu()
        named = {} if self.files is None else {"files": np.array(self.files, dtype=np.str_)[success.numpy()]}
        if self.target is not None:
            named["target"] = self.target.cpu()[success].numpy()
        with atomic_write(path, option) as part, open(part, "wb") as file:
            np.savez_compressed(
                file,
                **{name: getattr(self, name).cpu()[success].numpy() for name in ("x", "x_adv", "y", "index")},
                broken_by=np.array(self.names)[self.breaker.cpu()[success].numpy()],
                **named,
            )
        return int(success.sum())

    def samples(self) -> list[Sample]:
        """A record of each."""
        by_sample = None if self.succeeded is None else self.succeeded.T.tolist()
        return [
            Sample(
                index=int(self.index[i]),
                label=int(self.y[i]),
                clean=_label(self.clean[i]),
                adversarial=_label(self.adversarial[i]),
                broken_by=name,
                distance=float(self.distance[i]) if name is not None else None,
                fooled_by=None if by_sample is None else list(compress(self.names, by_sample[i])),
                nearest={one: _known(distances[i]) for one, distances in self.nearest.items()} or None,
                file=self.files[i] if self.files else None,
                target=None if self.target is None else int(self.target[i]),
            )
            for i, name in enumerate(self.broken_by)
        ]


def _label(predicted: Tensor) -> int | None:
    return None if predicted == NO_ANSWER else int(predicted)


def _known(distance: Tensor) -> float | None:
    return None if distance.isnan() else float(distance)
