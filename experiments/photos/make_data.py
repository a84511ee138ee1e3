"""Real photos of ImageNet classes from installed packages, and 360 images of two classes to fine-tune on.

pip install foolbox scikit-image matplotlib scikit-learn
python experiments/photos/make_data.py FOLDER [CIFAR]

FOLDER/photos: 25 photos as they are, in 24 class folders; classes.txt says which output of an ImageNet network each class
is. 20 come with foolbox, labelled in their file names (MIT with the package; two labels are open to doubt: the loafer has
laces, the prayer rug is a wall of stained glass). Of scikit-image's, three show an ImageNet class: chelsea (a tabby), coffee
(espresso) and camera (a tripod), in the public domain. matplotlib's Grace Hopper wears a military uniform (US Navy, public
domain); scikit-learn's china.jpg is the Summer Palace (danielbuechele, CC BY 2.0). Others of theirs have no true class there.

FOLDER/pair: 360 training and 400 test images of two classes, as many of each: cats and dogs from CIFAR, a folder of class
folders under train/ and test/, where it is given; else scikit-learn's digits, even and odd, in colour at 64 pixels.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = Path(__file__).with_name("classes.txt")
OTHERS = {  # package: files below it, and their classes
    "skimage": {"data/chelsea.png": "tabby", "data/coffee.png": "espresso", "data/camera.png": "tripod"},
    "matplotlib": {"mpl-data/sample_data/grace_hopper.jpg": "military_uniform"},
    "sklearn": {"datasets/images/china.jpg": "palace"},
}
COUNTS = {"train": 180, "test": 200}  # of each class of the pair
SIDE = 64
PAIR = ("cat", "dog")


def make(folder: Path, cifar: Path | None = None) -> None:
    """Raises ModuleNotFoundError that names a missing package, FileNotFoundError where one lacks a file."""
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
    """The files and the names of their classes."""
    names = {index: name for name, index in classes().items()}
    samples = sorted((home_of("foolbox") / "data").glob("imagenet_*.jpg"))
    found = [(path, names[int(path.stem.rpartition("_")[2])]) for path in samples]
    return found + [(home_of(package) / path, name) for package in OTHERS for path, name in OTHERS[package].items()]


def classes() -> dict[str, int]:
    """classes.txt: the class of ImageNet by folder name."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return {name: int(index) for name, index in (line.split() for line in lines if not line.startswith("#"))}


def home_of(package: str) -> Path:
    """Where a package is installed; it is not imported."""
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
    """Even and odd digits: the first of each for training, the next for testing."""
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
