"""Makes grey images of two classes, a minority with a lesion, for the screening example.

python experiments/medical/make_data.py CIFAR FOLDER

The images are synthetic, not medical data: the background is a grey CIFAR-10 photograph, and the lesion is a bright spot with a
soft edge of random size, contrast and position. The position is known, and so is where an explanation should look.
FOLDER/images holds the training and test images; FOLDER/masks holds the mask of each lesion in the test images.
"""

import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
COUNTS = {"train": (4000, 1000), "test": (320, 80)}  # images without and with a lesion
RADIUS, CONTRAST = (2.0, 4.0), (0.35, 0.6)


def make(cifar: Path, folder: Path, seed: int = 0) -> None:
    """Write the images and masks. Raises FileNotFoundError if cifar has no train/ and test/."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for split, counts in COUNTS.items():
        files = sorted((cifar / split).glob("*/*"))
        random.Random(f"{seed} {split}").shuffle(files)
        draw = np.random.default_rng([seed, len(split)])
        for name, part in (("healthy", files[: counts[0]]), ("lesion", files[counts[0] : sum(counts)])):
            (folder / "images" / split / name).mkdir(parents=True, exist_ok=True)
            for number, file in enumerate(part):
                pixels = background(file)
                if name == "lesion":
                    spot, mask = lesion(draw)
                    pixels = pixels + spot
                    if split == "test":
                        save(folder / "masks" / f"{number:04}.png", mask)
                save(folder / "images" / split / name / f"{number:04}.png", pixels)


def background(file: Path) -> np.ndarray:
    """Return the background, SIDE,SIDE in [0, 0.6]; the rest of the range is left for a brighter spot."""
    with Image.open(file) as image:
        grey = image.convert("L").resize((SIDE, SIDE))
    return 0.6 * np.asarray(grey, dtype=np.float64) / 255


def lesion(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a spot to add to the image, and its mask (1 inside the radius), both SIDE,SIDE."""
    radius, contrast = draw.uniform(*RADIUS), draw.uniform(*CONTRAST)
    top, left = draw.uniform(radius, SIDE - radius, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - top, columns - left) / radius
    return contrast * np.exp(-(distance**4)), (distance <= 1).astype(np.float64)


def save(path: Path, values: np.ndarray) -> None:
    Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8), mode="L").save(path)


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
