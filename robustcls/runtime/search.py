"""The model that attacks search on: a fused copy, in low precision with close calls by fp32."""

import time

import torch
from torch import Tensor, nn

from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen, input_gradient
from robustcls.core.logits import Wrapper
from robustcls.core.losses import predict_labels
from robustcls.runtime.device import has_bf16, wait_for
from robustcls.runtime.flops import forward_flops
from robustcls.runtime.fused import Counted, FusedModel

CLOSE = 0.02  # of the largest logit, between the first two: bf16 logits are off by 0.004 (median) to 0.009 (99%) of it
# bf16 is looked at for models of so many operations an image, and taken where it is so much faster: small ones are not.
LEAST_FLOPS, LEAST_GAIN, TIMED, ROUNDS = 2e8, 1.15, 16, 3


class RefinedModel(FusedModel):
    """A copy in low precision, where fp32 decides the close calls: logits whose first two are CLOSE are those of an fp32
    copy, the gradient stays that of low precision.

    An attack drops a sample, and keeps its best point, by what the logits say there. On a sample that is near the boundary
    low precision errs, so that examples would be lost that it has found, or left before they were reached.
    """

    def __init__(self, model: nn.Module, precision: str, x: Tensor | None = None, *, fold: bool = True) -> None:
        super().__init__(model, precision, x, fold=fold)
        self.exact = FusedModel(model, "fp32", x, fold=fold)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        close = close_calls(logits.detach())
        if not close.any():
            return logits
        self.forwards += int(close.sum())
        low = torch.where(close[:, None] & ~logits.isfinite(), 0, logits)
        with torch.no_grad():
            difference = torch.zeros_like(logits)
            difference[close] = self.exact(x.detach()[close]) - low[close]
        return low + difference


def close_calls(logits: Tensor) -> Tensor:
    """Where the first two logits lie within CLOSE of the largest magnitude, or where one is not finite: N, bool."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    largest = logits.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(logits == -torch.inf, 0).amax(1)
    return ~(first - second > CLOSE * largest)


def make_search_model(model: nn.Module, precision: str, x: Tensor, *, compiled: bool = False) -> FusedModel | Counted:
    """A fused copy of the model where one can be made and agrees with it on x (N,C,H,W), else the model itself.

    In low precision a RefinedModel.

    Agreement: fp32 logits within a thousandth of their largest, low-precision ones within a tenth. Raises InputError
    for a copy that was to be compiled and cannot be.
    """
    if not getattr(model, "differentiable", True):  # it runs elsewhere: there is nothing to fold, and often no copy
        return Counted(model)
    if any(isinstance(one, Wrapper) for one in model.modules()):  # it may be random, or have gradients of its own
        return Counted(model)
    with torch.no_grad(), frozen(model):
        expected = Counted(model)(x)
        tolerance = (1e-3 if precision == "fp32" else 0.1) * expected.abs().max()
        for fold in (True, False):
            try:
                twin = (FusedModel if precision == "fp32" else RefinedModel)(model, precision, x[:1], fold=fold)
                proposed = twin(x)
            except Exception:  # whatever a model raises that cannot be copied, or cannot run in this precision
                continue
            if (proposed - expected).abs().max() <= tolerance:
                if compiled:
                    _compile(twin, x)
                twin.forwards = 0
                return twin
    return Counted(model)


def _compile(twin: FusedModel, x: Tensor) -> None:
    twin.compile_copy(any_size=True)
    try:
        twin(x)
    except Exception as error:  # a model that cannot be traced, or a machine without a compiler
        raise InputError(f"the model cannot be compiled ({type(error).__name__}): leave out `compile`") from error


def faster_precision(model: nn.Module, x: Tensor) -> str:
    """bf16 where attacks search faster in it, close calls included, else fp32, by a second or so of timing on x (N,C,H,W).

    fp32 without a timing where the device has no bf16 instructions and for a model of fewer than LEAST_FLOPS.
    """
    device = device_of(model)
    x = x[:TIMED].to(device)
    if not has_bf16(device) or not getattr(model, "differentiable", True):
        return "fp32"
    with frozen(model):
        if forward_flops(Counted(model), x[:1]) < LEAST_FLOPS:
            return "fp32"
        exact, refined = (make_search_model(model, precision, x) for precision in ("fp32", "bf16"))
        if not isinstance(refined, RefinedModel):  # bf16 does not agree with the model, or cannot be run
            return "fp32"
        y = predict_labels(exact(x)).clamp_min(0)
        seconds: dict[nn.Module, list[float]] = {exact: [], refined: []}
        for _ in range(ROUNDS + 1):
            for search, times in seconds.items():
                began = time.perf_counter()
                input_gradient(search, x, y)
                wait_for(device)
                times.append(time.perf_counter() - began)
    # The first of each is a warm-up, and of the others the shortest is the least disturbed.
    fp32, bf16 = (min(times[1:]) for times in seconds.values())
    return "bf16" if fp32 > LEAST_GAIN * bf16 else "fp32"
