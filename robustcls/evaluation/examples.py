"""Clean images and the adversarial images, or strongest attempts, that the attacks made from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any, TypeVar
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from torch import Tensor

from robustcls.core.files import atomic_write
from robustcls.core.losses import NO_ANSWER
from robustcls.results.records import Sample
from robustcls.runtime.stored import BLOCK, ImageRows

E = TypeVar("E", bound="Examples")


@dataclass(kw_only=True)
class Examples:
    """N samples, each with its verified adversarial example, or with the strongest attempt if none was found."""

    x: ImageRows  # N,C,H,W in [0, 1]
    y: Tensor  # N, labels
    index: Tensor  # N, positions in the split
    clean: Tensor  # N, predicted classes of x; NO_ANSWER if the model predicts none, or a detector rejects the image
    x_adv: ImageRows  # N,C,H,W: the verified example, else the strongest attempt; x if that is misclassified already
    adversarial: Tensor  # N, predicted classes after the attacks
    distance: Tensor  # N, from x to x_adv in the norm of the threat model
    margin: Tensor  # N, of x_adv: by how much another logit exceeds the label's; -inf before any attempt
    breaker: Tensor  # N, number of the attack that succeeded first, -1 for none
    names: list[str]  # of the attacks
    succeeded: Tensor | None = None  # attacks,N: which attacks succeed, if every attack ran on every sample
    nearest: dict[str, Tensor] = field(default_factory=dict)  # by minimum-norm attack: N distances, NaN if none found
    files: Sequence[str] | None = None  # N file names, for data stored as files
    target: Tensor | None = None  # N classes that alone count as success; None: any class but the label

    @property
    def correct(self) -> Tensor:
        """Whether the clean image is classified correctly: N, bool."""
        return self.clean == self.y

    @property
    def success(self) -> Tensor:
        """Whether a verified adversarial example was found: N, bool."""
        return self.breaker >= 0

    @property
    def robust(self) -> Tensor:
        """Whether the clean image is classified correctly and no attack succeeded: N, bool."""
        return self.correct & ~self.success

    @property
    def broken_by(self) -> list[str | None]:
        """The name of the attack that succeeded first, or None, for each of N samples."""
        return [self.names[number] if number >= 0 else None for number in self.breaker.tolist()]

    def to(self: E, device: torch.device | str) -> E:
        """Return the examples on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        moved["nearest"] = {name: value.to(device) for name, value in self.nearest.items()}
        return replace(self, **moved)

    def save(self, path: str | Path, *, option: str = "`path`") -> int:
        """Write only the verified adversarial examples, as npz, and return how many there are.

        Arrays: x, x_adv, float32 N,C,H,W in [0, 1]; y, index, N; broken_by, the name of the attack, N; files, file names, N,
        for data stored as files; target, N, for targeted attacks. option: the option that gave the path, for the message.
        Raises InputError if the file cannot be written.
        """
        success = self.success.cpu()
        rows = success.nonzero().squeeze(1)
        columns = {name: getattr(self, name).cpu()[success].numpy() for name in ("y", "index")}
        columns["broken_by"] = np.array(self.names)[self.breaker.cpu()[success].numpy()]
        if self.files is not None:
            columns["files"] = np.array(self.files, dtype=np.str_)[success.numpy()]
        if self.target is not None:
            columns["target"] = self.target.cpu()[success].numpy()
        with atomic_write(path, option) as part, ZipFile(part, "w", ZIP_DEFLATED) as archive:
            for name in ("x", "x_adv"):
                images = getattr(self, name)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    shape = (len(rows), *images.shape[1:])
                    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    for some in rows.split(BLOCK):  # in blocks, so that they are never all in memory
                        file.write(np.ascontiguousarray(images[some.to(images.device)].cpu().numpy(), "<f4").data)
            for name, values in columns.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)
        return len(rows)

    def samples(self) -> list[Sample]:
        """Return a record of each sample."""
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
