"""A run on tiny digits: under a second an epoch."""

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


def tiny_run(folder, images: dict[int, tuple[Images, Images]], **options) -> Run:
    """With other options than the tiny ones where given; images: training and validation images for each limit."""
    config = TrainConfig(**{**TINY, **options})
    return Run(config, folder, *images[config.limit_train])
