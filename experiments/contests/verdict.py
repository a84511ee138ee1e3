"""Verify the examples of a contestant independently of its own verdicts."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.gradients import frozen
from robustcls.core.losses import VERDICT_TIE, misclassified, predict_labels
from robustcls.core.threat import BALL, ThreatModel
from robustcls.runtime.device import exact_fp32

BATCH = 128


@torch.no_grad()
def rejudge(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, x_adv: Tensor, claimed: Tensor
) -> dict[str, Any]:
    """Return the robust accuracy of the plain fp32 model on the examples, beside the claimed accuracy.

    A sample is broken if its x_adv lies within eps + 1e-6 of x and inside [0, 1], and the model misclassifies it by more than
    a tie, as in any evaluation. Images that are misclassified without an attack count as not robust in any case.
    claimed: N, robust according to the contestant. Raises ValueError for examples that do not belong to the images.
    """
    if x_adv.shape != x.shape or claimed.shape != y.shape:
        raise ValueError(
            f"it returned examples {tuple(x_adv.shape)} with {tuple(claimed.shape)} verdicts for images {tuple(x.shape)}"
        )
    right, fooled, inside, distances = [], [], [], []
    with frozen(model), exact_fp32():
        for images, labels, candidates in zip(*(t.split(BATCH) for t in (x, y, x_adv.float())), strict=True):
            candidates = candidates.to(images.device)
            distance, flat = threat.distance(candidates, images), candidates.flatten(1)
            in_box = (flat.amin(1) >= 0) & (flat.amax(1) <= 1)
            inside.append((in_box & (distance <= threat.eps + BALL)).cpu())
            distances.append(distance.cpu())
            # Copies, because some models modify their input.
            right.append((predict_labels(model(images.clone())) == labels).cpu())
            fooled.append(misclassified(model(candidates.clone()), labels, tie=VERDICT_TIE).cpu())
    is_right, is_inside = torch.cat(right), torch.cat(inside)
    broken = torch.cat(fooled) & is_inside
    farthest = torch.cat(distances).amax().item()
    return {
        "clean_accuracy": is_right.double().mean().item(),
        "robust_accuracy": (is_right & ~broken).double().mean().item(),
        "claimed_robust_accuracy": claimed.double().mean().item(),
        "unverified": int((is_right & ~claimed.cpu() & ~broken).sum()),  # claimed broken, but not broken
        "outside": int((~is_inside).sum()),  # images that left ball or box
        "farthest": farthest if math.isfinite(farthest) else None,
    }
