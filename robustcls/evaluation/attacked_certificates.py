"""Certificates of a model that is attacked, and the adversarial examples found within their radii."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustcls.evaluation.verify import Attempts
from robustcls.results.certified import Certified
from robustcls.results.contradictions import reach

KEPT = 1000  # largest number of images to keep for repeating the vote


@dataclass(eq=False)
class AttackedCertificates:
    """Certificates, and every verified example inside them: the engine notes the attempts of all attacks here.

    All dictionaries are by the sample's index in the split.
    """

    record: Certified
    model: nn.Module  # the certified classifier; attempts on another model are ignored
    distance: dict[int, float] = field(default_factory=dict)  # of the nearest example inside the certificate
    # For smoothing: the example with the largest margin, as (margin, image), to repeat the vote on.
    images: dict[int, tuple[float, Tensor]] = field(default_factory=dict)
    # The images on which the vote was repeated, each with the result.
    answers: dict[int, list[tuple[Tensor, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reach = {one.index: reach(one.radius) for one in self.record.samples if one.holds(0) and one.radius > 0}

    def note(self, model: nn.Module, norm: str, index: Tensor, attempts: Attempts) -> None:
        """Note which attempts succeeded inside a certificate. index: the samples' positions in the split, N."""
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
