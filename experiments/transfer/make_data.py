"""Two folders of 224-pixel images for the transfer-learning example: a source of eight classes, a small target of two.

python experiments/transfer/make_data.py CIFAR TARGET

CIFAR: a folder with train/ and test/, each with a folder of images a class. They are enlarged (bicubic) to TARGET/source
and TARGET/target: photographs of one's own would lie there in the same way.
"""

import random
import sys
from pathlib import Path

from PIL import Image

TARGET_CLASSES = ("automobile", "truck")
COUNTS = {("source", "train"): 250, ("source", "test"): 25, ("target", "train"): 70, ("target", "test"): 200}  # a class
SIDE = 224


def make(cifar: Path, folder: Path, seed: int = 0) -> None:
    """Raises FileNotFoundError where cifar has no train/ and test/."""
    for split in ("train", "test"):
        for source in sorted(path for path in (cifar / split).iterdir() if path.is_dir()):
            task = "target" if source.name in TARGET_CLASSES else "source"
            files = sorted(source.iterdir())
            random.Random(f"{seed} {split} {source.name}").shuffle(files)
            out = folder / task / split / source.name
            out.mkdir(parents=True, exist_ok=True)
            for file in files[: COUNTS[task, split]]:
                with Image.open(file) as image:
                    large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                large.save(out / f"{file.stem}.jpg", quality=92)


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
