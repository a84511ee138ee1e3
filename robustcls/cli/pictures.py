"""The files of `robustcls explain`."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcls.api import attack
from robustcls.attribution import collapse, explain_counted, not_finite
from robustcls.attribution import note as describe
from robustcls.attribution._figure import Row, draw
from robustcls.cli.console import note
from robustcls.cli.places import command_line
from robustcls.core.classifier import device_of
from robustcls.core.files import atomic_write
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.options import parse_batch_size
from robustcls.core.provenance import commit, versions
from robustcls.core.seeds import mix
from robustcls.evaluation.config import ExplainConfig
from robustcls.evaluation.explanations import MARK, comparable, gaps_of, make_maps, measure_all
from robustcls.evaluation.spacing import spaced
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Measures, Provenance, Threat
from robustcls.runtime.device import describe_device, resolve_batch_size, resolve_device
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import predict


def draw_pictures(subject: Subject, config: ExplainConfig, methods: Sequence[str], folder: Path) -> Iterator[Path]:
    """Yields the files as they are written: maps.npz, measures.json, then one PNG a sample."""
    model, classes = subject.model, subject.classes
    started, began = datetime.now(UTC), time.perf_counter()
    x, y = subject.x, subject.y
    size = resolve_batch_size(parse_batch_size(config.batch_size), x.shape[1:], resolve_device(config.device))
    show = not config.quiet
    x_adv = attack(
        model, x, y, subject.threat, config.attack, batch_size=size, seed=config.seed, index=subject.index,
        progress=show,
    )  # fmt: skip
    with frozen(model):
        clean, attacked = (predict(Counted(model), images, size) for images in (x, x_adv))
    found = predict_labels(attacked)
    shown = torch.where(found == NO_ANSWER, y, found)
    maps = {method: make_maps(model, x, y, x_adv, method, seed=config.seed, progress=show) for method in methods}
    for method, its in maps.items():
        if said := not_finite(its.odd):
            note(f"{method}: {said}", config.quiet)
    drawn = spaced(y, config.pictures)  # the third map of a row is made for these alone
    third = {
        method: explain_counted(
            model, x_adv[drawn], shown[drawn], method, reference=x[drawn], seed=mix(config.seed, 0)
        )[0]
        for method in (methods if config.pictures else ())
    }
    gaps = {method: gaps_of(model, x, y, its.clean, method) for method, its in maps.items()}
    index, files = subject.index.numpy(), subject.files
    stale = [folder / "measures.json", *folder.glob("sample-[0-9][0-9][0-9][0-9][0-9]*.png")]
    stale = stale if (folder / "maps.npz").exists() else []  # of an earlier run into this folder
    with atomic_write(folder / "maps.npz") as part, open(part, "wb") as file:
        arrays: dict[str, Any] = {"drawn": drawn.numpy()}
        if files is not None:
            arrays["files"] = np.array(files, dtype=np.str_)
        for method, its in maps.items():
            arrays |= {f"{method}/clean": its.clean.numpy(), f"{method}/adversarial": its.adversarial.numpy()}
            if method in third:  # of the samples that are drawn
                arrays[f"{method}/adversarial_class"] = third[method].numpy()
            if gaps[method] is not None:
                arrays[f"{method}/completeness_gap"] = gaps[method].numpy()  # type: ignore[union-attr]
        np.savez_compressed(
            file, x=x.numpy(), x_adv=x_adv.numpy(), y=y.numpy(), adversarial=found.numpy(), index=index, **arrays
        )  # fmt: skip
    for old in stale:
        old.unlink(missing_ok=True)
    yield folder / "maps.npz"

    if config.quality_n:
        samples = comparable(model, x, y, x_adv, size)
        explanations = measure_all(
            model, samples, {method: its.take(samples.rows) for method, its in maps.items()}, config.attack,
            quality_n=config.quality_n, seed=config.seed, progress=show,
            on_method=lambda method: note(f"measuring the maps of {method}", config.quiet),
        )  # fmt: skip
        threat = Threat(subject.threat.norm, subject.threat.eps, subject.threat.eps_text)
        provenance = Provenance(
            command_line(), asdict(config), config.seed, versions(), describe_device(device_of(model)), commit(),
            started.isoformat(timespec="seconds"), round(time.perf_counter() - began, 3), batch_size=size,
        )  # fmt: skip
        Measures(
            subject.model_record, subject.data_record, threat, explanations, provenance, files=list(files or ())
        ).save(folder / "measures.json")  # fmt: skip
        yield folder / "measures.json"

    notes = {method: describe(model, x, method) for method in methods}
    for number, i in enumerate(drawn.tolist()):
        changed = bool(shown[i] != y[i])
        which = f"{subject.data_record.split} sample {index[i]}{f' ({files[i]})' if files else ''}"
        rows = [
            Row(
                method,
                collapse(its.clean[i : i + 1])[0],
                collapse(its.adversarial[i : i + 1])[0],
                collapse(third[method][number : number + 1])[0] if changed else None,
                " · ".join(filter(None, (notes[method], _mark(gaps[method], i)))),
            )
            for method, its in maps.items()
        ]
        path = folder / f"sample-{index[i]:05d}.png"
        draw(
            path,
            image=x[i],
            adversarial=x_adv[i],
            maps=rows,
            label=classes[int(y[i])],
            adversarial_label=_name(int(found[i]), classes),
            clean_top=_top(clean[i].softmax(0), classes),
            adversarial_top=_top(attacked[i].softmax(0), classes),
            title=f"{subject.model_record.name}, {which}, {config.attack}, {subject.threat}",
        )
        yield path


def _mark(gaps: Tensor | None, i: int) -> str:
    """What the map of the clean image misses of the change that it claims to add up to, where that is too much."""
    if gaps is None or gaps[i] <= MARK:
        return ""
    if not gaps[i].isfinite():
        return "! the logit does not change from the baseline to the image"
    return f"! misses the change of the logit by {gaps[i]:.1%}"


def _name(label: int, classes: Sequence[str]) -> str:
    if label == NO_ANSWER:
        return "no class: logits are not numbers"
    return classes[label] if label < len(classes) else f"class {label}"  # the model may know more than the data has


def _top(probabilities: Tensor, classes: Sequence[str]) -> list[tuple[str, float]]:
    if probabilities.isnan().any():
        return []
    top = torch.topk(probabilities, min(3, len(probabilities)))
    return [(_name(int(label), classes), float(value)) for value, label in zip(top.values, top.indices, strict=True)]
