"""The optimizer of a run, and its learning-rate schedules.

A schedule maps the completed fraction of the run, in [0, 1), to a fraction of the peak learning rate. Its option `warmup` is
the fraction of the run in which the rate rises linearly from 0 to the schedule's first value.
"""

import math

import torch

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.transfer import parameter_groups
from robustcls.training.config import TrainConfig
from robustcls.training.muon import Muon

__all__ = ["constant", "cosine", "cyclic", "one_cycle", "piecewise"]


def make_optimizer(model: Classifier, config: TrainConfig, precision: str = "fp32") -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, Muon, or AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Weight decay is applied only to the weights of convolutions and linear layers, chosen by module type.
    """
    groups = parameter_groups(model, lr=config.lr, weight_decay=config.weight_decay, backbone_lr=config.backbone_lr)
    # On CUDA the fused optimizer runs as one kernel, and the fp16 gradient scaler need not wait for the device.
    how = {"fused": True} if next(model.parameters()).is_cuda else {"foreach": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), **how)
    if config.optimizer == "muon":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return Muon(groups, lr=config.lr, momentum=config.momentum, dtype=dtype)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, **how)


def one_cycle(progress: float, *, warmup: float = 0.25) -> float:
    """Linear up to the peak, then linear down to 0 (Smith and Topin 2017, arXiv:1708.07120)."""
    return _warm(progress, warmup, lambda rest: 1 - rest)


def cosine(progress: float, *, warmup: float = 0.05) -> float:
    """Linear up to the peak, then half a cosine down to 0 (Loshchilov and Hutter 2016, arXiv:1608.03983)."""
    return _warm(progress, warmup, lambda rest: 0.5 * (1 + math.cos(math.pi * rest)))


def piecewise(
    progress: float, *, first: float = 0.5, second: float = 0.75, factor: float = 0.1, warmup: float = 0.0
) -> float:
    """The peak, multiplied by `factor` after the fraction `first` of the run, and again after `second` (Rice et al. 2020,
    arXiv:2002.11569)."""
    if not 0 <= factor <= 1:
        raise InputError(f"piecewise(factor={factor}): give a share from 0 to 1")
    if not 0 <= first <= second <= 1:
        raise InputError(f"piecewise(first={first}, second={second}): give shares of the run, the smaller first")
    return _warm(progress, warmup, lambda _: factor ** ((progress >= first) + (progress >= second)))


def cyclic(progress: float, *, cycles: int = 2, low: float = 0.0) -> float:
    """Triangles between `low` and the peak (Smith 2015, arXiv:1506.01186): each cycle rises and falls linearly."""
    if cycles < 1:
        raise InputError(f"cyclic(cycles={cycles}): give 1 or more")
    if not 0 <= low <= 1:
        raise InputError(f"cyclic(low={low}): give a share of the peak, from 0 to 1")
    return low + (1 - low) * (1 - abs(2 * ((progress * cycles) % 1) - 1))


def constant(progress: float, *, warmup: float = 0.0) -> float:
    """The peak rate."""
    return _warm(progress, warmup, lambda _: 1.0)


def _warm(progress: float, warmup: float, after) -> float:
    """Rise linearly from 0 to after(0) during the warm-up, then return after(completed fraction of the remaining run)."""
    if not 0 <= warmup < 1:
        raise InputError(f"warmup={warmup}: give a share of the run, from 0 to below 1")
    if progress < warmup:
        return after(0.0) * progress / warmup
    return after((progress - warmup) / (1 - warmup))
