"""Random images in files and folders."""

import numpy as np
from PIL import Image


def draw(path, size=(8, 6), mode="RGB", seed=0, **options):
    """Writes one random image; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def fill(root, splits=("train", "test"), classes=("cat", "dog"), n=3, **options):
    """No two of its images are the same."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(n):
                draw(root / split / name / f"{i}.png", seed=1000 * s + 100 * c + i, **options)
    return root
