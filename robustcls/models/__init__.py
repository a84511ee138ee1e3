"""Architectures, checkpoints and foreign weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def load(spec: Any, **options: Any) -> "nn.Module":
    """Whatever --model takes, as a model on pixels in [0, 1], N,C,H,W, to logits N,K; in eval mode.

    spec: a checkpoint of ours; a state dict of others, with arch and input_size; `torchvision/NAME`, `timm/NAME`,
    `FILE.onnx`, `module:callable`. options: arch (a name, a function of (num_classes, input_size), or the network), classes,
    input_size, mean, std (of pixels in [0, 1]). A checkpoint whose architecture is code, such as `mylab.nets:net`, needs
    arch="mylab.nets:net": naming it is to trust it. What was assumed or not used is a UserWarning. Raises InputError.
    """
    from robustcls.models import loading

    return loading.load(spec, **options)
