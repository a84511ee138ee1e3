"""The files of `robustcls explain`: maps of clean and adversarial images, their measures, and pictures."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcls.attribution import collapse, explain, nonfinite_remark, note
from robustcls.attribution._figure import Row, draw
from robustcls.attribution.measures.checks import MARK
from robustcls.attribution.measures.trust import Maps, gaps_of, make_maps, measure_all, quiet_maps, select_samples
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER, most_probable, predict_labels
from robustcls.core.options import parse_batch_size
from robustcls.core.provenance import commit, versions
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.evaluation.config import ExplainConfig
from robustcls.evaluation.subject import Subject
from robustcls.results import records
from robustcls.runtime.device import describe_device, resolve_batch_size, resolve_device
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import predict


@dataclass
class Explained:
    """The attribution maps of clean and adversarial images, by method. Tensors are on the CPU; N samples."""

    x_adv: Tensor
    logits: Tensor
    logits_adv: Tensor
    maps: dict[str, Maps]
    gaps: dict[str, Tensor | None]  # completeness gaps of the clean images' maps
    drawn: Tensor  # rows of the samples that are drawn as pictures
    predicted_maps: dict[str, Tensor]  # maps of the drawn samples for the predicted class of the adversarial image

    @property
    def predicted(self) -> Tensor:
        """The predicted class of each adversarial image, N; NO_ANSWER if the logits are not numbers."""
        return predict_labels(self.logits_adv)


def supported_methods(
    subject: Subject, methods: Sequence[str], *, strict: bool, say: Callable[[str], None]
) -> list[str]:
    """Return the methods that can explain the model, tried on one image before an expensive attack.

    say: called with each method that is left out, and why. strict: raise InputError for the first such method instead.
    """
    supported = []
    for method in methods:
        try:
            explain(subject.model, subject.x[:1], method=method, keep_nonfinite=True)
        except InputError as error:
            if strict:
                raise
            say(f"left out: {error}")
        else:
            supported.append(method)
    return supported


def explain_subject(
    subject: Subject,
    options: ExplainConfig,
    methods: Sequence[str],
    folder: Path,
    *,
    craft: Callable[..., Tensor],
    command: str,
    say: Callable[[str], None],
) -> Iterator[Path]:
    """Explain the samples and their adversarial images.

    Yields maps.npz, measures.json and one PNG per drawn sample, each once it is written. craft: makes the adversarial images,
    given `batch_size`. command: for the record. say: called with a line on what is being done.
    """
    model, x, y, show = subject.model, subject.x, subject.y, not options.quiet
    started, began = datetime.now(UTC), time.perf_counter()
    size = resolve_batch_size(parse_batch_size(options.batch_size), x.shape[1:], resolve_device(options.device))
    explained = _explain(subject, craft(batch_size=size), methods, options, size)
    for method, maps in explained.maps.items():
        if remark := nonfinite_remark(maps.nonfinite):
            say(f"{method}: {remark}")
    stale = [folder / "measures.json", *folder.glob("sample-[0-9][0-9][0-9][0-9][0-9]*.png")]
    stale = stale if (folder / "maps.npz").exists() else []  # files of an earlier run into this folder
    with atomic_write(folder / "maps.npz") as part, open(part, "wb") as file:
        np.savez_compressed(file, **_arrays(subject, explained))
    for old in stale:
        old.unlink(missing_ok=True)
    yield folder / "maps.npz"

    if options.quality_n:
        samples = select_samples(model, x, y, explained.x_adv, size)
        maps_of_samples = {method: maps.take(samples.rows) for method, maps in explained.maps.items()}
        measured = measure_all(
            model, samples, maps_of_samples, options.attack,
            quality_n=options.quality_n, seed=options.seed, progress=show,
            on_method=lambda method: say(f"measuring the maps of {method}"),
        )  # fmt: skip
        threat = records.Threat(subject.threat.norm, subject.threat.eps, subject.threat.eps_text)
        provenance = records.Provenance(
            command, asdict(options), options.seed, versions(), describe_device(device_of(model)), commit(),
            started.isoformat(timespec="seconds"), round(time.perf_counter() - began, 3), batch_size=size,
        )  # fmt: skip
        files = list(subject.files or ())
        measures = records.Measures(
            subject.model_record, subject.data_record, threat, measured, provenance, files=files
        )
        measures.save(folder / "measures.json")
        yield folder / "measures.json"
    yield from _draw(subject, explained, options.attack, folder)


def _explain(
    subject: Subject, x_adv: Tensor, methods: Sequence[str], options: ExplainConfig, batch_size: int
) -> Explained:
    model, x, y, seed = subject.model, subject.x, subject.y, options.seed
    with frozen(model):
        clean, attacked = (predict(Counted(model), images, batch_size) for images in (x, x_adv))
    predicted = predict_labels(attacked)
    target = torch.where(predicted == NO_ANSWER, y, predicted)
    maps = {method: make_maps(model, x, y, x_adv, method, seed=seed, progress=not options.quiet) for method in methods}
    drawn = spaced(y, options.pictures)  # only these need the third map of a picture's row
    third = {
        method: quiet_maps(model, x_adv[drawn], target[drawn], method, reference=x[drawn], seed=mix(seed, 0))
        for method in (methods if options.pictures else ())
    }
    gaps = {method: gaps_of(model, x, y, made.clean, method) for method, made in maps.items()}
    return Explained(x_adv, clean, attacked, maps, gaps, drawn, third)


def _arrays(subject: Subject, explained: Explained) -> dict[str, Any]:
    """Return the arrays of maps.npz."""
    tensors = {
        "x": subject.x, "x_adv": explained.x_adv, "y": subject.y, "adversarial": explained.predicted, "index": subject.index,
        "drawn": explained.drawn,
    }  # fmt: skip
    for method, maps in explained.maps.items():
        tensors |= {f"{method}/clean": maps.clean, f"{method}/adversarial": maps.adversarial}
        if method in explained.predicted_maps:
            tensors[f"{method}/adversarial_class"] = explained.predicted_maps[method]
        if (gaps := explained.gaps[method]) is not None:
            tensors[f"{method}/completeness_gap"] = gaps
    named = {} if subject.files is None else {"files": np.array(subject.files, dtype=np.str_)}
    return {name: tensor.numpy() for name, tensor in tensors.items()} | named


def _draw(subject: Subject, explained: Explained, attack: str, folder: Path) -> Iterator[Path]:
    """Write one PNG per drawn sample, and yield its path."""
    notes = {method: note(subject.model, subject.x, method) for method in explained.maps}
    for number, i in enumerate(explained.drawn.tolist()):
        label, predicted = int(subject.y[i]), int(explained.predicted[i])
        rows = [
            Row(
                method,
                collapse(maps.clean[i : i + 1])[0],
                collapse(maps.adversarial[i : i + 1])[0],
                None if predicted in (label, NO_ANSWER) else collapse(explained.predicted_maps[method][number : number + 1])[0],
                " · ".join(filter(None, (notes[method], mark_of(explained.gaps[method], i)))),
            )
            for method, maps in explained.maps.items()
        ]  # fmt: skip
        index, file = int(subject.index[i]), f" ({subject.files[i]})" if subject.files else ""
        path = folder / f"sample-{index:05d}.png"
        draw(
            path,
            image=subject.x[i],
            adversarial=explained.x_adv[i],
            maps=rows,
            label=subject.classes[label],
            adversarial_label=_name(predicted, subject.classes),
            clean_top=_top(explained.logits[i].softmax(0), subject.classes),
            adversarial_top=_top(explained.logits_adv[i].softmax(0), subject.classes),
            title=f"{subject.model_record.name}, {subject.data_record.split} sample {index}{file}, {attack}, {subject.threat}",
        )
        yield path


def mark_of(gaps: Tensor | None, i: int) -> str:
    """Return a warning if the map of a clean image is too far from completeness, or "".

    Completeness: its values add up to the change of the logit from the baseline to the image.
    """
    if gaps is None or gaps[i] <= MARK:
        return ""
    if not gaps[i].isfinite():
        return "! the logit does not change from the baseline to the image"
    return f"! misses the change of the logit by {gaps[i]:.1%}"


def _name(label: int, classes: Sequence[str]) -> str:
    if label == NO_ANSWER:
        return "no class: logits are not numbers"
    return classes[label] if label < len(classes) else f"class {label}"  # the model may have more classes than the data


def _top(probabilities: Tensor, classes: Sequence[str]) -> list[tuple[str, float]]:
    return [(_name(label, classes), p) for label, p in most_probable(probabilities)]
