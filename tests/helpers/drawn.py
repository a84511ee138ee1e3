"""Random images in files and folders."""

import numpy as np
from PIL import Image


def draw(path, size=(8, 6), mode="RGB", seed=0, **options):
    """Write one random image and return its pixels; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def fill(root, splits=("train", "test"), classes=("cat", "dog"), n=3, **options):
    """Fill an image folder with random images, no two of which are the same; return it."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(n):
                draw(root / split / name / f"{i}.png", seed=1000 * s + 100 * c + i, **options)
    return root
