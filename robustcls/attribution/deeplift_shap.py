"""DeepLIFT SHAP: DeepLIFT, averaged over a distribution of baselines."""

import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import baselines_of
from robustcls.attribution._batches import images_per_pass, singly
from robustcls.attribution._preparation import prepared


def deeplift_shap(model: nn.Module, x: Tensor, target: Tensor, *, background: Tensor | None = None) -> Tensor:
    """Mean DeepLIFT over baselines, an estimate of SHAP values (Lundberg and Lee 2017, arXiv:1705.07874): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits. background: the baselines, M,C,H,W; None takes the image's own
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


def note(model: nn.Module, x: Tensor) -> str:
    return "baselines black, mean and blur"
