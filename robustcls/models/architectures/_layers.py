"""Layers shared by the architectures for small images."""

from collections.abc import Sequence

from torch import nn

from robustcls.core.errors import InputError

ALPHA = 10.0  # of Parametric Softplus, log(1 + exp(alpha x)) / alpha, which is closer to ReLU than plain softplus


def make_activation(name: str) -> nn.Module:
    """Return relu, or silu or softplus for smooth adversarial training (Xie et al. 2020, arXiv:2006.14536)."""
    if name == "softplus":
        return nn.Softplus(beta=ALPHA)
    return nn.SiLU() if name == "silu" else nn.ReLU()


def widen(channels: Sequence[int], width: float, least: int = 1) -> list[int]:
    """Return the channels of each layer times width, at least one. Raises InputError where a layer has fewer than `least`."""
    if not 0 < width <= 16:
        raise InputError(f"width {width} is not a multiplier of channels: give a number above 0, such as 0.25")
    widened = [max(1, round(base * width)) for base in channels]
    if min(widened) < least:
        raise InputError(f"width {width} leaves a layer {min(widened)} channels: give one that leaves {least} or more")
    return widened


def conv3x3(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)


def init_convolutions(net: nn.Module) -> None:
    """Draw normal weights so that ReLU layers preserve the variance of the gradient (He et al. 2015, arXiv:1502.01852)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
