"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv:1605.07146)."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from robustcls.core.errors import InputError
from robustcls.models.architectures.preact_resnet import make_preact


def wide_resnet(
    num_classes: int,
    input_size: Sequence[int],
    *,
    depth: int = 28,
    width: int = 10,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """WRN-depth-width: three stages of (depth - 4) / 6 blocks; the linear layer's bias begins at zero.

    num_classes: K. input_size: (C, H, W). width: times the 16, 32 and 64 channels of the stages. Raises InputError.
    """
    num_blocks, rest = divmod(depth - 4, 6)
    if num_blocks < 1 or rest:
        raise InputError(f"wide_resnet depth {depth} is not 6n + 4: give 10, 16, 22, 28, 34 ...")
    if not 1 <= width <= 64:
        raise InputError(f"wide_resnet width {width} is no widen factor: give a whole number from 1 to 64, such as 10")
    net = make_preact(num_classes, input_size, 16, [16 * width, 32 * width, 64 * width], num_blocks, activation)
    nn.init.zeros_(net.get_parameter("linear.bias"))
    return net
