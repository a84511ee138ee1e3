"""Muon: SGD with momentum whose updates of convolutions are orthogonalised.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. The filters O,C,H,W of a convolution are a matrix of O rows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the polynomial a x + b x^3 + c x^5. Applied five times, it maps singular values from (0, 1] to about 1. As in the source.
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5


class Muon(torch.optim.SGD):
    """SGD with Nesterov momentum. The update of a convolution is replaced by the semi-orthogonal matrix nearest to it.

    Its size therefore depends on the learning rate alone, and all singular directions of a layer learn equally fast. All other
    parameters are updated by SGD. Weight decay is decoupled: each update multiplies the weights by 1 - lr * weight_decay.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, dtype: torch.dtype = torch.float32
    ) -> None:
        """groups: with `weight_decay`. dtype: of the matrix products, such as torch.bfloat16."""
        split = []
        for group in groups:
            rest = {**group, "decay": group["weight_decay"], "weight_decay": 0.0}
            filters = [p for p in group["params"] if p.ndim == 4]
            others = [p for p in group["params"] if p.ndim != 4]
            # SGD takes a step along the gradient of filters as it is: their momentum is kept here.
            split += [{**rest, "params": filters, "filters_momentum": momentum, "momentum": 0.0}] if filters else []
            split += [{**rest, "params": others}] if others else []
        super().__init__(split, lr=lr, momentum=momentum, nesterov=momentum > 0, foreach=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one update. The gradients of convolutions are replaced by their updates."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group["decay"]:
                    weight.mul_(1 - group["lr"] * group["decay"])
                if "filters_momentum" in group:
                    weight.grad = self._update(weight, weight.grad, group["filters_momentum"])
        super().step(closure)

    def _update(self, weight: Tensor, grad: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].mul_(momentum).add_(grad)
        update = grad.add(buffer, alpha=momentum)
        return orthogonal(update.flatten(1), self.dtype).view(weight.shape)


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a matrix with the same singular vectors, and singular values of about 1, by Newton-Schulz iteration.

    They are 0.68 to 1.15. Singular values that are tiny beside the largest stay smaller. dtype: of the matrix products.
    """
    a, b, c = COEFFICIENTS
    wide = len(matrix) <= matrix.shape[1]
    x = matrix if wide else matrix.t()
    x = (x / x.norm().clamp_min(torch.finfo(torch.float32).tiny)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.t()).to(matrix.dtype)
