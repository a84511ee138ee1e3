"""The digits that scikit-learn contains: 1,797 grey images of 8x8; no download."""

import torch
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.core.subset import stratified_order
from robustcls.data.images import Images, check_split

RECIPE = {"eps": "0.15", "augment": "none", "epochs": 12, "batch_size": 64, "adv": "pgd(steps=5)"}
SPLIT_SEED = 1797  # part of the data set's definition: accuracies on digits are comparable only with the same split
TRAIN_SHARE = 0.7


def digits(split: str, *, data_dir: str | None = None, size: int = 32) -> Images:
    """Handwritten digits embedded in scikit-learn (Alpaydin and Kaynak 1998), upsampled to size x size, split 70/30.

    Grey levels 0..16 become 0..255. data_dir is not used. Raises InputError for an unknown split or a size below 1.
    """
    from sklearn.datasets import load_digits

    check_split(split)
    if size < 1:
        raise InputError(f"digits: size={size} is not a size: give the side in pixels, such as 32")
    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    labels = torch.from_numpy(bunch.target).long()
    order, num_train = stratified_order(labels, SPLIT_SEED), int(TRAIN_SHARE * len(labels))
    keep = (order[:num_train] if split == "train" else order[num_train:]).sort().values
    x = F.interpolate(x[keep], size=(size, size), mode="bilinear", align_corners=False)
    pixels = x.round().clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels[keep], tuple(str(digit) for digit in range(10)), "digits", flip=False)
