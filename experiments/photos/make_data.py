"""Collects real photos of ImageNet classes from installed packages, and makes 360 images of two classes for fine-tuning.

pip install foolbox scikit-image matplotlib scikit-learn
python experiments/photos/make_data.py FOLDER [CIFAR]

FOLDER/photos: 25 unchanged photos in 24 class folders; classes.txt maps each class to an output of an ImageNet network. 20 come
with foolbox, labelled in their file names (MIT licence with the package; two labels are doubtful: the loafer has laces, and the
prayer rug is a wall of stained glass). Three of scikit-image show an ImageNet class: chelsea (a tabby), coffee (espresso) and
camera (a tripod), in the public domain. Grace Hopper in matplotlib wears a military uniform (US Navy, public domain);
china.jpg in scikit-learn is the Summer Palace (danielbuechele, CC BY 2.0). The other photos of these packages show no
ImageNet class.

FOLDER/pair: 360 training and 400 test images, equally many of two classes: cats and dogs if CIFAR is given (a folder with class
folders in train/ and test/); otherwise scikit-learn's digits, even and odd, in colour at 64 pixels.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = Path(__file__).with_name("classes.txt")
OTHERS = {  # package: files in its folder, and their classes
    "skimage": {"data/chelsea.png": "tabby", "data/coffee.png": "espresso", "data/camera.png": "tripod"},
    "matplotlib": {"mpl-data/sample_data/grace_hopper.jpg": "military_uniform"},
    "sklearn": {"datasets/images/china.jpg": "palace"},
}
COUNTS = {"train": 180, "test": 200}  # images per class of the pair
SIDE = 64
PAIR = ("cat", "dog")


def make(folder: Path, cifar: Path | None = None) -> None:
    """Write both folders. Raises ModuleNotFoundError for a missing package, FileNotFoundError for a missing file."""
    copy_photos(folder / "photos")
    if cifar:
        copy_pair(cifar, folder / "pair")
    else:
        draw_pair(folder / "pair")


def copy_photos(folder: Path) -> None:
    for source, name in photos():
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name / source.name)


def photos() -> list[tuple[Path, str]]:
    """Return the files with the names of their classes."""
    names = {index: name for name, index in classes().items()}
    samples = sorted((home_of("foolbox") / "data").glob("imagenet_*.jpg"))
    found = [(path, names[int(path.stem.rpartition("_")[2])]) for path in samples]
    return found + [(home_of(package) / path, name) for package in OTHERS for path, name in OTHERS[package].items()]


def classes() -> dict[str, int]:
    """Read classes.txt: the index of the ImageNet class by folder name."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return {name: int(index) for name, index in (line.split() for line in lines if not line.startswith("#"))}


def home_of(package: str) -> Path:
    """Return the folder where a package is installed, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {package}: pip install foolbox scikit-image matplotlib scikit-learn")
    return Path(spec.origin).parent


def copy_pair(cifar: Path, folder: Path) -> None:
    for split, count in COUNTS.items():
        for name in PAIR:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for path in sorted((cifar / split / name).iterdir())[:count]:
                shutil.copyfile(path, folder / split / name / path.name)


def draw_pair(folder: Path) -> None:
    """Draw even and odd digits: the first images of each class for training, the next ones for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for name, remainder in (("even", 0), ("odd", 1)):
        chosen = iter(digits.images[digits.target % 2 == remainder])
        for split, count in COUNTS.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                grey = Image.fromarray((next(chosen) * 255 / 16).round().astype(np.uint8))
                image = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("RGB")
                image.save(folder / split / name / f"{number:03}.png")


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
