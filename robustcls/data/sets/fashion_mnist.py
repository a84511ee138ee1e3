"""Fashion-MNIST: 70,000 grey images of 28x28 in ten classes of clothing."""

import gzip
import math
import zlib
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.data.download import arriving, data_folder
from robustcls.data.images import Images, check_split

RECIPE = {"eps": "0.1", "augment": "crop_flip(pad=2)"}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def fashion_mnist(split: str, *, data_dir: str | None = None, pad: int = 0) -> Images:
    """Fashion-MNIST (Xiao et al., arXiv:1708.07747): 60,000 train and 10,000 test images of 1x28x28.

    Read from .gz files in the data folder (default $ROBUSTCLS_DATA or ~/.cache/robustcls), in torchvision's folder below it, or
    from the Debian package dataset-fashion-mnist; otherwise downloaded. pad: black pixels added on each side (2: 32x32).
    Raises InputError where the files are damaged, or missing and cannot be downloaded.
    """
    check_split(split)
    if pad < 0:
        raise InputError(f"fashion_mnist: pad={pad} is negative: give the number of pixels to add on each side")
    prefix = "train" if split == "train" else "t10k"
    names = [f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"]
    folder = data_folder(data_dir)
    raw = folder / "FashionMNIST" / "raw"
    place = next((p for p in (folder, raw, DEBIAN) if all((p / name).is_file() for name in names)), None)
    if place is None:
        _download(names, raw)
        place = raw
    pixels, labels = _read(place / names[0], 3)[:, None], _read(place / names[1], 1).long()
    if len(pixels) != len(labels):
        raise InputError(f"{place / names[1]} has {len(labels)} labels for {len(pixels)} images: fetch both again")
    return Images(F.pad(pixels, (pad,) * 4), labels, CLASSES, "fashion_mnist")


def _download(names: list[str], raw: Path) -> None:
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    url, md5 = FashionMNIST.mirrors[0], dict(FashionMNIST.resources)
    with arriving("fashion_mnist", raw, url) as part:
        for name in names:
            download_url(url + name, part, name, md5[name])


def _read(path: Path, dimensions: int) -> Tensor:
    """Read a gzipped idx file of bytes (LeCun's format: magic number 8 << 8 | dimensions, big-endian sizes, data).

    torchvision's reader is not used, because it takes only unpacked files, and those of the Debian package are packed.
    """
    try:
        content = gzip.decompress(path.read_bytes())  # checks the CRC
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}: delete it, and it is downloaded again") from None
    head = 4 + 4 * dimensions
    magic, *shape = numpy.frombuffer(content[:head].ljust(head, b"\0"), dtype=">i4").tolist()
    if magic != (8 << 8 | dimensions) or len(content) != head + math.prod(shape):
        raise InputError(f"{path} is not an idx file of {dimensions} dimensions: delete it, and it is downloaded again")
    return torch.from_numpy(numpy.frombuffer(content, dtype=numpy.uint8, offset=head).reshape(shape).copy())
