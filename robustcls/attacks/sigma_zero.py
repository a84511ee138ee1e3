"""Sigma-zero: gradient descent on a smooth count of the changed values.

Difference from the authors' code: the boundary is that of a clear misclassification, 3e-5 of the logits beyond a tie.
"""

import math

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._nearest import Nearest, lead, minimum_norm
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.threat import ThreatModel

BETA_1, BETA_2 = 0.9, 0.999  # of Adam


@minimum_norm("l0", positive=("steps", "step_size", "sigma"), mask=True)
def sigma_zero(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    tau: float = 0.3,
    tau_factor: float = 0.01,
    generator: Generator | None = None,
) -> Tensor:
    """Change as few values as possible: Adam on margin and smoothed l0 norm (Cina et al. 2024, arXiv:2402.01879).

    step_size: the paper's eta_0, which falls to a tenth. sigma: how sharply the smoothed norm counts a changed value. tau: the
    first threshold; changes below the threshold are set to 0. At each step the threshold rises by tau_factor times the step
    size for samples that are adversarial, and falls by as much for the others.
    """
    nearest = Nearest(x, y, threat)
    delta, m, v = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    threshold, eta = torch.full_like(x[:, 0, 0, 0], tau), step_size
    d = x[0].numel()
    for k in range(steps):
        logits, ahead, grad = logits_and_gradient(model, x + delta, lead, y)
        adversarial, grad = nearest.add(x + delta, logits), threat.masked(grad)
        # The gradient of max(-lead, 0) + mean(delta^2 / (delta^2 + sigma)).
        g = 2 * sigma * delta / (delta.square() + sigma).square() / d - grad * per_sample(ahead < 0)
        g = g / per_sample(g.flatten(1).abs().amax(1).clamp_min(1e-12))
        m, v = BETA_1 * m + (1 - BETA_1) * g, BETA_2 * v + (1 - BETA_2) * g.square()
        m_hat, v_hat = m / (1 - BETA_1 ** (k + 1)), v / (1 - BETA_2 ** (k + 1))
        delta = (x + delta - eta * m_hat / (v_hat.sqrt() + 1e-8)).clamp(0, 1) - x
        eta = step_size * (0.1 + 0.9 * (1 + math.cos(math.pi * k / steps)) / 2)
        threshold = (threshold + tau_factor * eta * torch.where(adversarial, 1, -1)).clamp(0, 1)
        delta = delta.masked_fill(delta.abs() < per_sample(threshold), 0)
    return nearest.x_adv
