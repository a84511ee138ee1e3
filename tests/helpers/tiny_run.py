"""A run on tiny digits: under a second an epoch."""

import torch
from torch import nn

from robustcls.data.images import Images
from robustcls.training.config import TrainConfig
from robustcls.training.run import Run

TIMES = ("seconds", "val_seconds", "images_per_second")
TINY = {
    "data": "digits(size=8)",
    "arch": "vgg16(width=0.05)",
    "eps": "0.15",
    "adv": "pgd(steps=2)",
    "augment": "affine(degrees=5.0, shift=0.05, zoom=0.05, shear=0.0)",
    "epochs": 2,
    "batch_size": 32,
    "limit_train": 160,
    "val_n": 40,
    "val_attack": "pgd(steps=2)",
    "device": "cpu",
    "precision": "fp32",
}


def small_cnn(num_classes, input_size):
    """Learns in a few updates, in any precision of a CPU."""
    layers = [nn.Conv2d(input_size[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, num_classes))


def tiny_run(folder, images: dict[int, tuple[Images, Images]], *, resumed: bool = False, **options) -> Run:
    """With other options than the tiny ones where given; images: training and validation images for each limit."""
    config = TrainConfig(**{**TINY, **options})
    return Run(config, folder, *images[config.limit_train], resumed=resumed)


def same(a, b, left_out=TIMES):
    """Bit for bit, wherever tensors lie in dicts and lists; the keys in left_out are not compared."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], left_out) for key in a if key not in left_out)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(one, other, left_out) for one, other in zip(a, b, strict=True))
    return a == b
