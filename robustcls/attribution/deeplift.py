"""DeepLIFT: the logit's change from a baseline, passed back through every layer by its own share."""

from typing import Literal

import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import baseline_of
from robustcls.attribution._batches import singly
from robustcls.attribution._preparation import prepared


def deeplift(
    model: nn.Module, x: Tensor, target: Tensor, *, baseline: Literal["black", "mean", "blur"] = "black"
) -> Tensor:
    """Contributions by the rescale rule (Shrikumar et al. 2017, arXiv:1704.02685): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits: a map adds up to logit(x) - logit(baseline) where the network is
    made of linear layers, elementwise activations and max pooling; products, such as attention's or LayerNorm's, have no
    rule and pass their plain gradient. Works on a prepared copy of the model (`_preparation`). Raises InputError where a
    module cannot be prepared.
    """
    from captum.attr import DeepLift

    x = x.detach()
    lift = DeepLift(prepared(model, x, "deeplift", rescale=True))
    maps = [  # one at a time: for pixels like the baseline captum takes the gradient of the batch's first image
        lift.attribute(image, start, one).detach() for image, start, one in singly(x, baseline_of(x, baseline), target)
    ]
    return torch.cat(maps)


def origin(x: Tensor, *, baseline: Literal["black", "mean", "blur"]) -> Tensor:
    return baseline_of(x, baseline)


def note(model: nn.Module, x: Tensor, *, baseline: str) -> str:
    return f"baseline {baseline}"
