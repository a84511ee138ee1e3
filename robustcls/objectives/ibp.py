"""Certified training with interval bounds."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from robustcls.certification.bounds import Region, check, interval_margins, intervals
from robustcls.certification.graph import trace
from robustcls.certification.network import read
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy
from robustcls.core.objective import BoundAttack, Loss, StepContext
from robustcls.core.traits import traits

_traced: WeakKeyDictionary[nn.Module, fx.GraphModule] = WeakKeyDictionary()


@traits(
    diverges="bounds grow with every layer: ibp is for small networks such as cnn4, where a longer warmup or a smaller alpha "
    "may help",
    settles=("warmup", "ramp"),
)
def ibp(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: BoundAttack,
    *,
    state: StepContext,
    alpha: float = 0.1,
    warmup: float = 0.2,
    ramp: float = 0.5,
) -> Loss:
    """(1 - alpha) cross-entropy under attack plus alpha cross-entropy of interval bounds (MTL-IBP, arXiv:2305.13991).

    De Palma et al. 2023. The second term is an upper bound of the loss of every image in the ball. The trained network can be
    certified with `certify_bounds`, at the cost of clean accuracy. Use it for small plain networks at small radii.

    Differences from the paper: the attack is the inner attack of the run, at the full radius from the start, whereas the paper
    grows the attack's radius with that of the bounds; the bounds of BatchNorm use its running statistics, which the trained
    model uses in eval mode; there is no L1 penalty, and the weights are initialised as the architecture does.

    alpha: weight of the bounds in the loss; 1 is IBP alone (Gowal et al. 2018, arXiv:1810.12715). warmup: fraction of the run
    in which the radius of the bounds is 0. ramp: fraction of the run in which that radius then grows to eps. Without a warm-up,
    the bounds would train an untrained network to be constant, because a constant network has the tightest bounds.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"ibp(alpha={alpha}): give 0 or more, at most 1")
    if not (warmup >= 0 and ramp >= 0 and warmup + ramp <= 1):
        raise InputError(f"ibp(warmup={warmup}, ramp={ramp}): give fractions of the run, at most 1 together")
    if y.is_floating_point():
        raise InputError("objective ibp needs one label per image: leave out the augmentation that mixes labels")
    check(state.full_threat)
    logits = model(attack(model, x, y))
    attacked = cross_entropy(logits, y).mean()
    after_warmup = state.share_done - warmup
    radius = state.full_threat.eps * (min(1.0, max(0.0, after_warmup) / ramp) if ramp else float(after_warmup >= 0))
    with torch.autocast(x.device.type, enabled=False):
        if model not in _traced:
            _traced[model] = trace(model)
        network = read(_traced[model], x[:1])
        region = Region(x, state.full_threat.at(radius))
        margins = interval_margins(network, region, intervals(network, region), y)
        certified = cross_entropy(-margins, y).mean()
    total = (1 - alpha) * attacked + alpha * certified
    return Loss(total, logits, seen="adversarial", parts={"attacked": attacked, "certified": certified})
