"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 in 10 or 100 classes (Krizhevsky 2009)."""

import shutil
from typing import Any

import torch

from robustcls.data.download import arriving, data_folder
from robustcls.data.images import Images, check_split

__all__ = ["cifar10", "cifar100"]

# The recipe for fifteen minutes of two CPU cores, measured on CIFAR-10: experiments/fifteen_minutes.
TUNED = {
    "arch": "resnet7(width=1.75, activation='silu')",
    "objective": "adversarial(label_smoothing=0.3)",
    "adv": "n_fgsm",
    "train_eps": "12/255",
    "eps_ramp": "0.15-0.3",
    "optimizer": "muon",
    "lr": 0.2,
    "augment": "crop_flip(pad=1)",
}


def cifar10(split: str, *, data_dir: str | None = None) -> Images:
    """CIFAR-10 (Krizhevsky 2009), downloaded on demand: 50,000 train and 10,000 test images of 3x32x32.

    data_dir: default $ROBUSTCLS_DATA or ~/.cache/robustcls. Raises InputError where it is missing and cannot be downloaded.
    """
    return _load("cifar10", split, data_dir)


def cifar100(split: str, *, data_dir: str | None = None) -> Images:
    """CIFAR-100 (Krizhevsky 2009), downloaded on demand: 50,000 train and 10,000 test images of 3x32x32.

    data_dir: default $ROBUSTCLS_DATA or ~/.cache/robustcls. Raises InputError where it is missing and cannot be downloaded.
    """
    return _load("cifar100", split, data_dir)


def _load(name: str, split: str, data_dir: str | None) -> Images:
    """Load a data set; download it if it is missing. An archive in the data folder is used instead of the network."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    check_split(split)
    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = data_folder(data_dir)
    try:
        found = kind(folder, train=split == "train")  # checks the MD5 of every file
    except RuntimeError:
        with arriving(name, folder, kind.url) as part:
            if check_integrity(folder / kind.filename, kind.tgz_md5):
                shutil.copyfile(folder / kind.filename, part / kind.filename)
            kind(part, download=True)
        found = kind(folder, train=split == "train")
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(found.targets), tuple(found.classes), name)
