"""The optimizer of a run."""

import torch

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import parameter_groups
from robustcls.training.config import TrainConfig


def make_optimizer(model: Classifier, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Weight decay is for the weights of convolutions and linear layers alone, chosen by module type.
    """
    groups = parameter_groups(model, lr=config.lr, weight_decay=config.weight_decay, backbone_lr=config.backbone_lr)
    # Fused on CUDA: one kernel, and with fp16's scaler no waiting for the device.
    how = {"fused": True} if next(model.parameters()).is_cuda else {"foreach": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), **how)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, **how)
