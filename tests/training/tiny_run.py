"""A run on tiny digits: under a second an epoch."""

from torch import nn

from robustcls.data.images import Images
from robustcls.training.config import TrainConfig
from robustcls.training.run import Run

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
