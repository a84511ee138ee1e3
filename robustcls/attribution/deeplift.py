"""DeepLIFT propagates the logit's change from a baseline back through every layer; DeepLIFT SHAP averages over baselines."""

from typing import Literal

import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import baseline_of, baselines_of
from robustcls.attribution._batches import images_per_pass, singly
from robustcls.attribution._preparation import prepared

__all__ = ["deeplift", "deeplift_shap"]


def deeplift(
    model: nn.Module, x: Tensor, target: Tensor, *, baseline: Literal["black", "mean", "blur"] = "black"
) -> Tensor:
    """Contributions by the rescale rule (Shrikumar et al. 2017, arXiv:1704.02685): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits: a map adds up to logit(x) - logit(baseline) if the network
    consists of linear layers, elementwise activations and max pooling. Products, as in attention or LayerNorm, have no rule
    and pass their plain gradient. Works on a prepared copy of the model (`_preparation`). Raises InputError if a module
    cannot be prepared.
    """
    from captum.attr import DeepLift

    x = x.detach()
    lift = DeepLift(prepared(model, x, "deeplift", rescale=True))
    maps = [  # one by one: for pixels equal to the baseline, captum uses the gradient of the batch's first image
        lift.attribute(image, start, one).detach() for image, start, one in singly(x, baseline_of(x, baseline), target)
    ]
    return torch.cat(maps)


def deeplift_shap(model: nn.Module, x: Tensor, target: Tensor, *, background: Tensor | None = None) -> Tensor:
    """Mean DeepLIFT over baselines, an estimate of SHAP values (Lundberg and Lee 2017, arXiv:1705.07874): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits. background: the baselines, M,C,H,W; by default the image's own
    black, mean and blur. Otherwise as `deeplift`.
    """
    from captum.attr import DeepLift

    lift = DeepLift(prepared(model, x, "deeplift_shap", rescale=True))
    maps = []
    for image, one in singly(x.detach(), target):
        baselines = baselines_of(image, background)
        total = torch.zeros_like(image)
        for part in baselines.split(images_per_pass(x)):
            copies = image.expand(len(part), -1, -1, -1)
            total += lift.attribute(copies, part, one.expand(len(part))).detach().sum(0, keepdim=True)
        maps.append(total / len(baselines))
    return torch.cat(maps)


def origin(x: Tensor, *, baseline: Literal["black", "mean", "blur"] | None = None) -> Tensor | None:
    return None if baseline is None else baseline_of(x, baseline)


def note(model: nn.Module, x: Tensor, *, baseline: str = "") -> str:
    return f"baseline {baseline}" if baseline else "baselines black, mean and blur"
