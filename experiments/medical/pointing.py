"""Does an attribution map point at the lesion? The pointing game (Zhang et al. 2016, arXiv:1608.00507).

python experiments/medical/pointing.py FOLDER OUT.json NAME=CKPT.pt [...]    # measures
python experiments/medical/pointing.py OUT.json                             # prints the table

A map is a hit if its largest value lies in the lesion or at most two pixels beside it. Maps explain the class "lesion", on all
test images with a lesion, clean and under PGD-20 at linf 4/255. Lesions are bright, so chance is not the only baseline: the
brightest pixel of the image needs no model, and a copy of the first model with new random weights has learned nothing.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import robustcls
from robustcls.cli.console import markdown
from robustcls.core.classifier import Classifier
from robustcls.data.splits import load_split
from robustcls.results.statistics import wilson

METHODS = ("saliency", "integrated_gradients", "gradcam")
THREAT, ATTACK = robustcls.ThreatModel("linf", "4/255"), "pgd(steps=20)"
BESIDE = 2  # pixels


def measure(folder: Path, models: dict[str, str]) -> dict:
    images = load_split(f"folder:{folder}/images", "test")
    positive = images.classes.index("lesion")
    x, y = images.take((images.labels == positive).nonzero().squeeze(1)).batch()
    near = dilated(masks(folder))
    assert len(near) == len(x)
    found: dict = {
        "n": len(x),
        "threat": str(THREAT),
        "attack": ATTACK,
        "beside": BESIDE,
        "chance": near.mean().item(),
        "brightest": hits(x, near),
        "models": {},
    }
    loaded = {name: robustcls.load(path) for name, path in models.items()}
    for name, model in loaded.items():
        attacked = robustcls.attack(model, x, y, THREAT, ATTACK)
        found["models"][name] = {"clean": point(model, x, y, near), "attacked": point(model, attacked, y, near)}
    found["models"]["untrained"] = {"clean": point(untrained(next(iter(loaded.values()))), x, y, near)}
    return found


def point(model: Classifier, x: Tensor, y: Tensor, near: Tensor) -> dict[str, int]:
    """Count, for images N,1,H,W and labels, the correct predictions and the maps of each method that hit `near`."""
    with torch.no_grad():
        right = int((model(x).argmax(1) == y).sum())
    return {"called_lesion": right} | {name: hits(robustcls.explain(model, x, y, name), near) for name in METHODS}


def untrained(model: Classifier) -> Classifier:
    """Return a copy with new random weights (Adebayo et al. 2018, arXiv:1810.03292)."""
    torch.manual_seed(0)
    fresh = copy.deepcopy(model)
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return fresh


def masks(folder: Path) -> Tensor:
    """Return the masks N,1,H,W, of 0 and 1, in the order of the files."""
    files = sorted((folder / "masks").glob("*.png"))
    return torch.stack([torch.from_numpy(np.asarray(Image.open(file)) > 127).float()[None] for file in files])


def dilated(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask, 2 * BESIDE + 1, stride=1, padding=BESIDE)


def hits(maps: Tensor, near: Tensor) -> int:
    """Count the maps N,...,H,W whose largest value lies in the mask N,1,H,W."""
    peaks = maps.reshape(len(maps), -1, *near.shape[2:]).sum(1).flatten(1).argmax(1)
    return int(near.flatten(1).gather(1, peaks[:, None]).sum())


def table(found: dict) -> str:
    head = ["Model", "Images", "Called lesion", *(f"`{method}`" for method in METHODS)]
    lines = [
        [f"`{name}`", which, *(share(row[key], found["n"]) for key in ("called_lesion", *METHODS))]
        for name, rows in found["models"].items()
        for which, row in rows.items()
    ]
    lines.append(["brightest pixel", "clean", "", *[share(found["brightest"], found["n"])] * len(METHODS)])
    lines.append(["chance", "", "", *[f"{found['chance']:.1%}"] * len(METHODS)])
    return markdown(head, lines)


def share(count: int, total: int) -> str:
    low, high = (100 * bound for bound in wilson(count, total))
    return f"{count / total:.0%} [{low:.0f}, {high:.0f}]"


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    else:
        folder, out, *models = sys.argv[1:]
        measured = measure(Path(folder), dict(model.split("=", 1) for model in models))
        Path(out).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
