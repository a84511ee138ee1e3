"""Self-checks of an evaluation: signs that gradients, and so the numbers, mislead (Carlini et al. 2019, arXiv:1902.06705)."""

import math

import torch
from torch import Tensor, nn

from robustcls.core.gradients import input_gradient
from robustcls.core.records import Check

ZERO_GRADIENTS = 0.05  # share of samples


def run_checks(model: nn.Module, x: Tensor, y: Tensor) -> list[Check]:
    """All self-checks on a batch x (N,C,H,W), y, on the model's device; the model must be frozen."""
    with torch.no_grad():
        logits, again = model(x).float(), model(x).float()
    return [_zero_gradients(model, x, y), _softmax_output(logits), _random_output(logits, again)]


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Check:
    share = (input_gradient(model, x, y).flatten(1).abs().amax(1) == 0).float().mean().item()
    return _check(
        "zero_gradients",
        share,
        ZERO_GRADIENTS,
        f"{share:.1%} of {len(x)} samples have no input gradient",
        "gradient attacks cannot move them, so robust accuracy is overstated: attack without gradients too",
    )


def _softmax_output(logits: Tensor) -> Check:
    looks = (logits.min() >= 0) & ((logits.sum(1) - 1).abs() < 1e-4).all()
    return _check(
        "softmax_output",
        float(looks),
        0.5,
        "outputs look like probabilities" if looks else "outputs are not probabilities",
        "the losses expect logits: hand in the model without its softmax",
    )


def _random_output(logits: Tensor, again: Tensor) -> Check:
    scale = logits.abs().max().clamp_min(1e-12)
    difference = ((logits - again).abs().max() / scale).item()
    return _check(
        "random_output",
        difference,
        1e-4,
        f"two passes differ by {difference:.1e} of the largest logit",
        "the model is random: attack its expectation (EOT), one pass is not a verdict",
    )


def _check(name: str, measured: float, threshold: float, what: str, mend: str) -> Check:
    failed = not measured <= threshold
    known = measured if math.isfinite(measured) else None  # JSON has no NaN
    return Check(name, "fail" if failed else "pass", known, threshold, f"{what}; {mend}" if failed else what)
