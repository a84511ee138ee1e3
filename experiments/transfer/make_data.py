"""Makes the folders of the transfer-learning example: a source of eight classes, a small target of two at 224 pixels.

python experiments/transfer/make_data.py CIFAR FOLDER

CIFAR: a folder with train/ and test/, each with one folder of images per class. FOLDER/source has eight classes unchanged;
FOLDER/target has some images of the two others, enlarged (bicubic). You can lay out your own photographs in the same way.
"""

import random
import shutil
import sys
from pathlib import Path

from PIL import Image

TARGET_CLASSES = ("automobile", "truck")
COUNTS = {"train": 70, "test": 200}  # images per class of the target
SIDE = 224


def make(cifar: Path, folder: Path, seed: int = 0) -> None:
    """Write both folders. Raises FileNotFoundError if cifar has no train/ and test/."""
    for split, count in COUNTS.items():
        for source in sorted(path for path in (cifar / split).iterdir() if path.is_dir()):
            files = sorted(source.iterdir())
            out = folder / ("target" if source.name in TARGET_CLASSES else "source") / split / source.name
            if source.name not in TARGET_CLASSES:
                shutil.copytree(source, out, dirs_exist_ok=True)
                continue
            random.Random(f"{seed} {split} {source.name}").shuffle(files)
            out.mkdir(parents=True, exist_ok=True)
            for file in files[:count]:
                with Image.open(file) as image:
                    large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                large.save(out / f"{file.stem}.jpg", quality=92)


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
