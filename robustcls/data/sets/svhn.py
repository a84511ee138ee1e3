"""SVHN: house numbers, 99,289 colour images of 32x32, cropped to one digit."""

import torch

from robustcls.data.download import arriving, data_folder
from robustcls.data.images import Images, check_split

RECIPE = {"augment": "crop_flip(flip=False)"}


def svhn(split: str, *, data_dir: str | None = None) -> Images:
    """SVHN (Netzer et al. 2011), downloaded on demand: 73,257 train and 26,032 test images of 3x32x32; never mirrored.

    data_dir: default $ROBUSTCLS_DATA or ~/.cache/robustcls. Raises InputError where it is missing and cannot be downloaded.
    """
    from torchvision.datasets import SVHN

    check_split(split)
    folder = data_folder(data_dir)
    try:
        found = SVHN(folder, split=split)  # checks the MD5
    except RuntimeError:
        with arriving("svhn", folder, SVHN.split_list[split][0]) as part:
            SVHN(part, split=split, download=True)
        found = SVHN(folder, split=split)
    pixels, labels = torch.from_numpy(found.data).contiguous(), torch.from_numpy(found.labels)
    return Images(pixels, labels, tuple(str(digit) for digit in range(10)), "svhn", flip=False)
