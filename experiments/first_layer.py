"""Does bf16 in the first layer weaken an attack? In bf16, pixel values near 1 are 1/256 apart.

python experiments/first_layer.py DATA OUT.json NAME=CKPT.pt [...]    # measures
python experiments/first_layer.py OUT.json                           # prints the table

PGD-20 runs on 500 test images through three copies of the model: in fp32, in bf16, and in bf16 with the first convolution in
fp32. The fp32 model judges the results. Images, perturbations and normalisation are in fp32 in all three.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustcls
from robustcls.attacks.pgd import pgd
from robustcls.cli.console import markdown
from robustcls.core.gradients import input_gradient
from robustcls.data.splits import choose, load_split
from robustcls.runtime.fused import FusedModel

N, BATCH, RADII = 500, 100, ("1/255", "8/255")


class InFp32(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


def first_in_fp32(twin: FusedModel) -> FusedModel:
    for parent in list(twin.copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(parent, name, InFp32(child))
                twin.refresh()
                return twin
    raise ValueError("no convolution")


def measure(data: str, models: dict[str, str]) -> dict:
    x, y = choose(load_split(data, "test"), N).batch()
    found: dict = {"n": len(y), "models": {}}
    for name, path in models.items():
        model = robustcls.load(path).eval()
        twins = {
            "fp32": FusedModel(model),
            "bf16": FusedModel(model, "bf16"),
            "bf16, first layer fp32": first_in_fp32(FusedModel(model, "bf16")),
        }
        found["models"][name] = {
            eps: compare(model, twins, robustcls.ThreatModel.parse(f"linf:{eps}"), x, y) for eps in RADII
        }
    return found


def compare(model: nn.Module, twins: dict[str, FusedModel], threat, x: Tensor, y: Tensor) -> dict:
    start = threat.random_start(x, torch.Generator().manual_seed(0))
    batches = list(zip(x.split(BATCH), start.split(BATCH), y.split(BATCH), strict=True))
    signs, rows = {}, {}
    for name, twin in twins.items():
        signs[name] = torch.cat([input_gradient(twin, begin, labels).sign() for _, begin, labels in batches])
        generator = torch.Generator().manual_seed(1)
        x_adv = torch.cat(
            [
                pgd(twin, part, labels, threat, steps=20, early_stop=False, generator=generator)
                for part, _, labels in batches
            ]
        )
        with torch.no_grad():
            logits = torch.cat([model(part) for part in x_adv.split(BATCH)])
        rows[name] = {
            "signs_as_fp32": (signs[name] == signs["fp32"]).double().mean().item(),
            "loss": F.cross_entropy(logits, y).item(),
            "accuracy": (logits.argmax(1) == y).double().mean().item(),
        }
    return rows


def table(found: dict) -> str:
    rows = [
        [f"`{name}`", eps, search, f"{row['signs_as_fp32']:.1%}", f"{row['loss']:.4f}", f"{row['accuracy']:.1%}"]
        for name, radii in found["models"].items()
        for eps, rows in radii.items()
        for search, row in rows.items()
    ]
    return markdown(["Model", "eps", "Search", "Gradient signs as in fp32", "Loss", "Accuracy under PGD-20"], rows)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    else:
        data, out, *models = sys.argv[1:]
        measured = measure(data, dict(model.split("=", 1) for model in models))
        Path(out).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
