"""Whether the model optimises at inference time."""

import torch
from torch import Tensor, nn

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import FEW, NotRun, check, is_differentiable
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Check

NAME = "inference_optimisation"


@check(210, thorough=True)
def inference_optimisation(engine: Engine, outcome: Outcome) -> Check:
    """Whether the model backpropagates or changes its state in a forward pass (Croce et al. 2022, arXiv:2202.13711).

    A buffer with a single number is taken for a counter and ignored.
    """
    model, x = engine.model, engine.x[:FEW].to(engine.device)
    before = {key: tensor.detach().clone() for key, tensor in _state(model)}
    passes = 0

    def unpack(saved: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        return saved

    try:
        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            for _ in engine.parts.map(model, x):
                pass
    except RuntimeError as failure:
        if "saved tensor hooks" not in str(failure):  # torch.func, which computes gradients, refuses the hooks
            raise AttackError(str(failure).splitlines()[0]) from failure
        passes = 1
    changed = [
        key for key, tensor in _state(model)
        if key not in before or (tensor.numel() > 1 and not _same(tensor, before[key]))
    ]  # fmt: skip
    with torch.no_grad():
        for key, tensor in _state(model):  # restore only what changed: expanded buffers are not writable
            if key in before and tensor.shape == before[key].shape and not _same(tensor, before[key]):
                tensor.copy_(before[key])
    if passes or changed:
        what = (
            "the model backpropagates while it predicts"
            if passes
            else f"the model stores what it saw: {changed[0]} changed in a forward pass"
        )
        advice = (
            "it is an adaptive test-time defence, whose robustness is overstated by attacks that do not include it: attack "
            "the whole procedure, unrolled or by transfer, and also evaluate the static model"
        )
        return Check(NAME, "fail", float(passes or len(changed)), 0.0, f"{what}; {advice}")
    if not is_differentiable(model):
        raise NotRun("the model gives no gradients, so its inner computations cannot be observed")
    return Check(NAME, "pass", 0.0, 0.0, f"a forward pass of {len(x)} samples took no gradient and changed nothing")


def _state(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _same(tensor: Tensor, before: Tensor) -> bool:
    return tensor.shape == before.shape and torch.equal(tensor.nan_to_num(), before.nan_to_num())
