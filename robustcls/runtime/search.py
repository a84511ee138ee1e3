"""The model on which attacks search: a fused copy, in low precision where fp32 decides close calls."""

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

# A close call: the two largest logits differ by less than this fraction of the largest magnitude. The errors of bf16 logits
# are 0.004 (median) to 0.009 (99%) of it.
CLOSE = 0.02
# bf16 is timed for models with at least so many operations per image, and used where it is faster by this factor; for small
# models it is not faster.
LEAST_FLOPS, LEAST_GAIN, TIMED, ROUNDS = 2e8, 1.15, 16, 3


class RefinedModel(FusedModel):
    """A copy in low precision in which fp32 decides close calls.

    Where the two largest logits are CLOSE, the logits come from an fp32 copy; the gradient stays that of low precision. An
    attack uses the logits to decide when to stop on a sample, and to keep its best point. Near the decision boundary, low
    precision makes errors, so an attack would lose adversarial images that it has found, or stop before it has found one.
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
    """Whether the two largest logits differ by less than CLOSE of the largest magnitude, or one is not finite: bool N."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    largest = logits.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(logits == -torch.inf, 0).amax(1)
    return ~(first - second > CLOSE * largest)


def make_search_model(model: nn.Module, precision: str, x: Tensor, *, compiled: bool = False) -> FusedModel | Counted:
    """Return a fused copy of the model where it can be made and agrees with the model on x (N,C,H,W), else the model itself.

    In low precision the copy is a RefinedModel. It agrees where fp32 logits differ by at most a thousandth of the largest
    logit, low-precision ones by at most a tenth. Raises InputError where `compiled` is set and the copy cannot be compiled.
    """
    if not getattr(model, "differentiable", True):  # it runs outside PyTorch: nothing can be folded or, often, copied
        return Counted(model)
    if any(isinstance(one, Wrapper) for one in model.modules()):  # it may be random, or replace gradients
        return Counted(model)
    with torch.no_grad(), frozen(model):
        expected = Counted(model)(x)
        tolerance = (1e-3 if precision == "fp32" else 0.1) * expected.abs().max()
        for fold in (True, False):
            try:
                twin = (FusedModel if precision == "fp32" else RefinedModel)(model, precision, x[:1], fold=fold)
                proposed = twin(x)
            except Exception:  # the model cannot be copied, or cannot run in this precision
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
    """Return bf16 where attacks search faster in it, including close calls, else fp32. It times about a second on x (N,C,H,W).

    Without timing, the result is fp32 where the device has no bf16 instructions, and for models with fewer than LEAST_FLOPS
    operations per image.
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
    # The first time of each is a warm-up; of the others, the shortest is the least disturbed.
    fp32, bf16 = (min(times[1:]) for times in seconds.values())
    return "bf16" if fp32 > LEAST_GAIN * bf16 else "fp32"
