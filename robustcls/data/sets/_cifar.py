"""What CIFAR-10 and CIFAR-100 share: torchvision's files, read as Images."""

import shutil
from typing import Any

import torch

from robustcls.data.download import arriving, data_folder
from robustcls.data.images import Images, check_split


def load_cifar(name: str, split: str, data_dir: str | None) -> Images:
    """The split of cifar10 or cifar100 from the data folder, after a download where it is missing or damaged.

    An archive that lies in the data folder already is used instead of the network. Raises InputError.
    """
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
