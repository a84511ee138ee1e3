"""The files of `robustcls explain`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcls.attacks import attack
from robustcls.attribution import collapse, explain, note
from robustcls.attribution.figure import Row, draw
from robustcls.cli.subject import Subject
from robustcls.core.files import replacing
from robustcls.core.gradients import frozen
from robustcls.core.options import parse_batch_size
from robustcls.evaluation.config import ExplainConfig
from robustcls.runtime.device import resolve_batch_size, resolve_device
from robustcls.runtime.predict import predict
from robustcls.runtime.search import Counted


def draw_pictures(subject: Subject, config: ExplainConfig, methods: Sequence[str], folder: Path) -> Iterator[Path]:
    """Yields the files as they are written: maps.npz, then one PNG a sample."""
    model, classes = subject.loaded.model, subject.images.classes
    x, y = subject.images.batch()
    size = resolve_batch_size(parse_batch_size(config.batch_size), x.shape[1:], resolve_device(config.device))
    x_adv = attack(model, x, y, subject.threat, config.attack, batch_size=size, seed=config.seed)
    with frozen(model):
        clean, attacked = (predict(Counted(model), images, size).softmax(1) for images in (x, x_adv))
    found = attacked.argmax(1)
    maps = {
        (method, role): explain(model, images, target=target, method=method, progress=not config.quiet)
        for method in methods
        for role, images, target in (("clean", x, y), ("adversarial", x_adv, y), ("adversarial_class", x_adv, found))
    }
    index = subject.images.index.numpy()
    with replacing(folder / "maps.npz") as part, open(part, "wb") as file:
        arrays: dict[str, Any] = {f"{method}/{role}": values.numpy() for (method, role), values in maps.items()}
        np.savez_compressed(
            file, x=x.numpy(), x_adv=x_adv.numpy(), y=y.numpy(), adversarial=found.numpy(), index=index, **arrays
        )  # fmt: skip
    yield folder / "maps.npz"
    notes = {method: note(model, x, method) for method in methods}
    for i in range(len(y)):
        changed = bool(found[i] != y[i])
        rows = [
            Row(
                method,
                collapse(maps[method, "clean"][i : i + 1])[0],
                collapse(maps[method, "adversarial"][i : i + 1])[0],
                collapse(maps[method, "adversarial_class"][i : i + 1])[0] if changed else None,
                notes[method],
            )
            for method in methods
        ]
        path = folder / f"sample-{index[i]:05d}.png"
        draw(
            path,
            image=x[i],
            adversarial=x_adv[i],
            maps=rows,
            label=classes[int(y[i])],
            adversarial_label=classes[int(found[i])],
            clean_top=_top(clean[i], classes),
            adversarial_top=_top(attacked[i], classes),
            title=f"{subject.model.name}, {subject.data.split} sample {index[i]}, {config.attack}, {subject.threat}",
        )
        yield path


def _top(probabilities: Tensor, classes: Sequence[str]) -> list[tuple[str, float]]:
    top = torch.topk(probabilities, min(3, len(probabilities)))
    return [(classes[int(label)], float(value)) for value, label in zip(top.values, top.indices, strict=True)]
