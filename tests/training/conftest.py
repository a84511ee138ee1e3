"""Runs on tiny digits, and what is left of them."""

import pytest

from robustcls.data.splits import load_training_data
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


@pytest.fixture(scope="session")
def tiny_images():
    """Training and validation images for each limit, read once."""
    limits = (160, 1000)
    return {limit: load_training_data(TINY["data"], limit_train=limit) for limit in limits}


@pytest.fixture
def make_run(tmp_path, tiny_images):
    """Makes a run in the folder `name`, with other options than the tiny ones where given."""

    def make(name="run", **options):
        config = TrainConfig(**{**TINY, **options})
        return Run(config, tmp_path / name, *tiny_images[config.limit_train])

    return make
