"""Muon: steps for matrices whose directions all have the same length."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.heads import head_of
from robustcls.models.transfer import LAYERS
from robustcls.runtime.low_rank import LowRank, matrix_shape

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz iterations (Jordan et al. 2024; of networks with convolutions,
    arXiv:2605.26929).

    A convolution's weight is a matrix of outputs x (inputs of a group, kernel). Groups that are not `orthogonal` take
    the steps of SGD with Nesterov momentum, at the same rate. Weight decay shrinks matrices by lr times it, apart from
    their gradients. Weights are not normalised, so networks without BatchNorm, and those trained already, stay what
    they are. torch.optim.Muon takes no convolution.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        iterations: int = ITERATIONS,
        precision: str = "fp32",
    ) -> None:
        """precision: fp32, bf16 or fp16, of the iterations."""
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True}
        super().__init__([dict(group) for group in groups], defaults)
        self.iterations, self.dtype = iterations, DTYPES[precision]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            decay = group["weight_decay"]
            gradients: list[Tensor] = [p.grad for p in params]
            if decay and not group["orthogonal"]:
                gradients = list(torch._foreach_add(gradients, params, alpha=decay))
            momenta = [self._momentum(p) for p in params]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            updates = list(torch._foreach_add(gradients, momenta, alpha=group["momentum"]))
            if group["orthogonal"]:
                torch._foreach_mul_(params, 1 - group["lr"] * decay)
                updates = [orthogonalised(each, self.iterations, self.dtype) for each in updates]
            torch._foreach_add_(params, updates, alpha=-group["lr"])
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalised(update: Tensor, iterations: int = ITERATIONS, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix of the same singular vectors with singular values near 1, those of a tall one near sqrt(rows / columns).

    Near: after five iterations 0.7 to 1.2, but for directions that the update hardly has, and less exact after three.
    update: outputs, then any axes; so is what comes out, in its dtype and memory format.
    """
    rows, columns = matrix_shape(update)
    x = update.reshape(rows, columns)
    x = (x / (x.norm() + torch.finfo(x.dtype).tiny)).to(dtype)
    x = x.T if rows > columns else x
    a, b, c = COEFFICIENTS
    with torch.autocast(x.device.type, enabled=False):
        for _ in range(iterations):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if rows > columns else x
    return torch.empty_like(update).copy_(x.reshape(update.shape)).mul_(max(1.0, rows / columns) ** 0.5)


def matrix_groups(model: Classifier, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of `parameter_groups`, parted: weights of convolutions and linear layers before the head, and lora's
    matrices, are `orthogonal`. Raises InputError where none of them is trained."""
    head = set(head_of(model.net, len(model.classes))[1].parameters())
    matrices = {module.weight for module in model.modules() if isinstance(module, LAYERS)}
    matrices |= {each for module in model.modules() if isinstance(module, LowRank) for each in (module.a, module.b)}
    matrices -= head
    parted = [
        {**group, "params": params, "orthogonal": orthogonal}
        for group in groups
        for orthogonal in (True, False)
        if (params := [p for p in group["params"] if (p in matrices) == orthogonal])
    ]
    if not any(group["orthogonal"] for group in parted):
        raise InputError(
            '`optimizer="muon"` is for weights before the head, none of which is trained: give `optimizer="sgd"`'
        )
    return parted
