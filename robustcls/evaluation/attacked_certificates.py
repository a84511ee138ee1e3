"""Certificates of a model that is attacked, and what its attacks find inside them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustcls.evaluation.verify import Attempts
from robustcls.results.certified import Certified
from robustcls.results.contradictions import reach

KEPT = 1000  # images at most, to be asked again


@dataclass(eq=False)
class AttackedCertificates:
    """Every verified attempt of every attack is held to the certificates, whatever it was made for."""

    record: Certified
    model: nn.Module  # the classifier that is certified: attempts on another one say nothing
    distance: dict[int, float] = field(default_factory=dict)  # by index, of the nearest example inside the certificate
    # By index, of smoothing: how clear the clearest of them is, and the image. Its vote can be asked again.
    images: dict[int, tuple[float, Tensor]] = field(default_factory=dict)
    # By index: the images whose vote was asked again, and what it gave.
    answers: dict[int, list[tuple[Tensor, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reach = {one.index: reach(one.radius) for one in self.record.samples if one.holds(0) and one.radius > 0}

    def note(self, model: nn.Module, norm: str, index: Tensor, attempts: Attempts) -> None:
        """index: of the attempts' samples in the split, N."""
        if model is not self.model or norm != self.record.norm:
            return
        far = torch.tensor([self.reach.get(one, -1.0) for one in index.tolist()], dtype=torch.float64)
        inside = attempts.misclassified & (attempts.distance.double() <= far)
        for row in inside.nonzero().squeeze(1).tolist():
            name, distance, gap = int(index[row]), float(attempts.distance[row]), float(attempts.margin[row])
            self.distance[name] = min(distance, self.distance.get(name, distance))
            if self.record.method != "smoothing" or (name not in self.images and len(self.images) == KEPT):
                continue
            if name not in self.images or gap > self.images[name][0]:
                self.images[name] = gap, attempts.x_adv[row].clone()
