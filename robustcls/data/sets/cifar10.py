"""CIFAR-10: 60,000 colour images of 32x32 in 10 classes."""

from robustcls.data.images import Images
from robustcls.data.sets._cifar import load_cifar


def cifar10(split: str, *, data_dir: str | None = None) -> Images:
    """CIFAR-10 (Krizhevsky 2009), downloaded on demand: 50,000 train and 10,000 test images of 3x32x32.

    data_dir: default $ROBUSTCLS_DATA or ~/.cache/robustcls. Raises InputError where it is neither there nor to be had.
    """
    return load_cifar("cifar10", split, data_dir)
