"""Logits of many images."""

import torch
from torch import Tensor, nn

from robustcls.core.classifier import device_of
from robustcls.core.progress import Bar
from robustcls.runtime.memory import Parts
from robustcls.runtime.search import Counted


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int | Parts, *, label: str = "") -> Tensor:
    """fp32 logits N,K on the CPU for images N,C,H,W on any device. label: what progress on stderr is called; "": none."""
    device = device_of(model)
    fp32 = model if isinstance(model, Counted) else Counted(model)
    parts = batch_size if isinstance(batch_size, Parts) else Parts(batch_size)
    found = []
    with Bar(len(x), label, "image", show=bool(label)) as bar:
        for logits in parts.map(lambda part: fp32(part.to(device)).cpu(), x):
            found.append(logits)
            bar.advance(len(logits))
    return torch.cat(found)
