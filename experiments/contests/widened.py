"""A full-width VGG16 that computes the function of a trained narrow one, to time attacks without training a wide model.

    robustcls attack --model "experiments.contests.widened:vgg16(runs/pgd/ckpt.pt)" --data cifar10

Each channel is repeated, and the weights that read it are divided by the number of copies (Net2WiderNet, Chen et al. 2015,
arXiv:1511.05641). Shapes and cost differ; the logits are the same up to rounding.
"""

import torch
from torch import nn

from robustcls.models.checkpoint import build


def vgg16(narrow: nn.Module) -> nn.Module:
    """A VGG16 of any width, as a checkpoint holds it, at width 1."""
    narrow = narrow.eval()
    wide = build("vgg16", classes=narrow.classes, input_size=narrow.input_size).eval()
    state = wide.state_dict()
    for name, tensor in narrow.state_dict().items():
        if name in ("mean", "std"):
            setattr(wide, name, tensor)
            state[name] = tensor
            continue
        for dim, (have, want) in enumerate(zip(tensor.shape, state[name].shape, strict=True)):
            times = want // have
            tensor = tensor.repeat_interleave(times, dim) / (times if dim == 1 else 1)
        state[name] = tensor
    wide.load_state_dict(state)
    with torch.no_grad():
        x = torch.rand(8, *narrow.input_size)
        assert torch.allclose(narrow(x), wide(x), atol=1e-3)
    return wide
