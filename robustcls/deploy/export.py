"""Export a model as an artefact: a folder with one ONNX file and the information that a runtime needs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._run import run_attack
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.core.gradients import frozen
from robustcls.core.processor import EIGHT_BIT, cpu_flags
from robustcls.core.provenance import PACKAGES, versions
from robustcls.core.threat import ThreatModel
from robustcls.deploy.deployment import require_yaml, write_deployment
from robustcls.deploy.folder import new_folder
from robustcls.deploy.one_shot import prune_once
from robustcls.deploy.onnx_file import weighted_nodes, write_onnx
from robustcls.deploy.reference import REFERENCES, write_drift, write_reference
from robustcls.deploy.robust_drop import HELD_OUT, HeldOut, keep_robust
from robustcls.models.onnx.facts import OnnxFacts
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import (
    DRIFT,
    MANIFEST,
    MODEL,
    REFERENCE,
    Calibration,
    Checked,
    Decoding,
    File,
    Manifest,
    Quantization,
    Source,
)
from robustcls.runtime.predict import predict

TOLERANCE = (
    1e-4  # largest difference between the logits of the floating-point file and its source, relative to the largest
)
TOLERANCE_INT8 = 0.05  # the same for an 8-bit file on different CPUs, which may round a value differently
BATCHES = (1, 32)
CALIBRATION_ATTACK = "pgd(steps=10, early_stop=False)"
CHECKED = 256  # images on which the file is compared with its source


@dataclass
class Known:
    """What is known of the model before the export, and whether to write deployment files."""

    name: str
    classes: list[str]
    input_size: tuple[int, int, int]
    source: Source
    decoding: Decoding
    threat: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None  # if the model is a file that is already quantised
    pruning: str = ""  # if the model is already pruned
    threat_options: str = "`norm` and `eps`"  # the options that set a threat model, for error messages
    data: str = "given"  # data set of the images
    split: str = "given"
    deploy: bool = False
    unseen: Tensor | None = (
        None  # images N,C,H,W that the model was not trained on, for the reference of drift monitoring
    )


def export_model(
    model: nn.Module,
    out: str | Path,
    known: Known,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    prune: str | None = None,
    quantize: str | None = None,
    max_robust_drop: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> Manifest:
    """Write the artefact of a model on [0, 1] pixels. If a check fails, nothing is left at `out`.

    Args:
        model: returns logits N,K; it is not changed.
        out: the folder.
        known: what is known of the model.
        images: training images, float32 N,C,H,W in [0, 1], for checks, references and calibration.
        labels: labels N of the images; the model's own predictions if not given.
        prune: a spec such as `channels(ratio=0.5)`. The pruned model is not trained again; a warning says what this costs.
        quantize: a spec such as `int8(calibrate=256)`.
        max_robust_drop: largest loss of robust accuracy by quantisation, in percentage points, on images that are not used for
            calibration; layers go back to floating point until the loss is within it.
        seed: seed of the adversarial examples.
        overwrite: replace a folder that contains something else.
        say: is called with each line of progress.
        progress: show progress bars on stderr.

    Returns:
        The manifest.

    Raises:
        InputError: if the model cannot be exported, the file does not agree with it, or `out` cannot be written.
    """
    check_options(quantize, max_robust_drop)
    if known.deploy:
        require_yaml()
    if prune:
        plugins.load("prune", prune)
    if max_robust_drop is not None:
        _threat_of(known, "`max_robust_drop`")
        if len(images) <= HELD_OUT:
            raise InputError(
                f"{len(images)} images are too few to calibrate on some and to measure robust accuracy on {HELD_OUT} others: "
                "give more training images, or leave out `max_robust_drop`"
            )
    with new_folder(Path(out), overwrite) as folder:
        if labels is None and (prune or quantize):
            with frozen(model):
                labels = predict(model, images, max(BATCHES)).argmax(1)
        if prune:
            threat = ThreatModel(known.threat["norm"], known.threat["eps"]) if known.threat else None
            model = prune_once(model, prune, images, labels, threat, seed, say)  # type: ignore[arg-type]
        file = folder / MODEL
        write_onnx(model, file, known.input_size, progress=progress)
        checked = check_file(model, file, images[:CHECKED], progress=progress)
        say(_line(checked))
        quantization = known.quantization
        if quantize:
            with frozen(model):
                task = _Task(model, known, images, labels, seed, progress)  # type: ignore[arg-type]
                quantization = _quantize(quantize, folder, task, max_robust_drop, say)
            say(
                f"{quantize}: {quantization.same_label:.1%} of {quantization.calibration.n} calibration images keep their "
                f"label; in floating point: {', '.join(quantization.float_layers) or 'nothing'}"
            )
        net = OnnxNet(file).eval()
        outputs, facts = predict(net, images[:1], 1).shape[1], OnnxFacts.of(file)
        if known.classes and len(known.classes) != outputs:
            raise InputError(
                f"{known.name} gives {outputs} outputs and names {len(known.classes)} classes: name each output"
            )
        manifest = Manifest(
            name=known.name,
            file=File(
                sha256(file), file.stat().st_size, facts.opset, facts.parameters, facts.input, facts.output, facts.kind
            ),
            classes=known.classes or [str(number) for number in range(outputs)],
            decoding=known.decoding,
            source=known.source,
            checked=checked,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            reference_tolerance=TOLERANCE_INT8 if facts.rounded else TOLERANCE,
            quantization=quantization,
            pruning=str(getattr(model, "pruned", "")) or known.pruning,
            threat=known.threat,
            trained=known.trained,
        )
        write_reference(folder / REFERENCE, net, images[:REFERENCES])
        usual = images if known.unseen is None else known.unseen
        write_drift(folder / DRIFT, predict(net, usual, max(BATCHES), label="measuring drift" if progress else ""))
        manifest.save(folder / MANIFEST)
        if known.deploy:
            write_deployment(folder, Path(out).resolve().name, manifest)
    return manifest


def check_options(quantize: str | None, max_robust_drop: float | None) -> None:
    """Raise InputError for invalid options at once, not after minutes of work."""
    if quantize:
        calibrate = plugins.resolved("quantizer", quantize).get("calibrate", 1)
        share = plugins.resolved("quantizer", quantize).get("adversarial", 0.0)
        if calibrate < 1:
            raise InputError(f"{quantize}: calibrate={calibrate} is not a number of images: give 1 or more")
        if not 0 <= share <= 1:
            raise InputError(f"{quantize}: adversarial={share:g} is not a share of the images: give 0 to 1")
    if max_robust_drop is None:
        return
    if not quantize:
        raise InputError("`max_robust_drop` limits the loss by `quantize`: give both")
    if not 0 <= max_robust_drop <= 100:  # `not` so that NaN is refused, too
        raise InputError(f"`max_robust_drop={max_robust_drop:g}` is not a number of points: give 0 to 100, such as 1")


def _line(checked: Checked) -> str:
    compared = checked.images - checked.ties
    ties = f"; on the other {checked.ties}, the two largest logits are equal up to rounding" if checked.ties else ""
    return (
        f"checked on {checked.images} images at batch {' and '.join(map(str, BATCHES))}: logits within "
        f"{checked.largest_difference:.1g} of the source's (largest {checked.largest_logit:.3g}), the same label for "
        f"{f'{compared} images' if ties else 'every image'}{ties}"
    )


def check_file(model: nn.Module, file: Path, images: Tensor, *, progress: bool = False) -> Checked:
    """Compare a floating-point file with its source, at batch sizes 1 and 32. Raises InputError if they differ.

    Predicted labels are compared only where the two largest logits differ by more than twice the tolerance; the other images
    are counted as `ties`.
    """
    net = OnnxNet(file).eval()
    label = "checking" if progress else ""
    with torch.no_grad(), frozen(model):
        expected = predict(model, images, max(BATCHES), label=label)
    if not expected.isfinite().all():
        raise InputError(
            "the model gives logits that are NaN or infinite on these images, so its export cannot be checked: fix the model"
        )
    largest = expected.abs().max().item()
    difference = 0.0
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 2 * TOLERANCE * largest
    for size in BATCHES:
        logits = predict(net, images, size, label=label)
        if logits.shape != expected.shape:
            raise InputError(f"the exported file gives {tuple(logits.shape)}, the model {tuple(expected.shape)}")
        difference = max(difference, (logits - expected).abs().max().item())
        other = int((logits.argmax(1) != expected.argmax(1))[clear].sum())
        if other or not difference <= TOLERANCE * largest:
            raise InputError(
                f"the exported file differs from the model at batch {size}: logits by {difference:.3g} (largest "
                f"{largest:.3g}), {other} of {len(images)} labels: does the model draw random numbers or depend on its batch?"
            )
    flags = sorted(set(EIGHT_BIT) & cpu_flags())
    return Checked(
        len(images),
        list(BATCHES),
        difference,
        largest,
        flags,
        versions((*PACKAGES, "onnx", "onnxruntime", "onnxscript")),
        int((~clear).sum()),
    )


@dataclass
class _Task:
    """A model to quantise, with the images for it."""

    model: nn.Module
    known: Known
    images: Tensor
    labels: Tensor
    seed: int
    progress: bool

    def attack(self, rows: slice) -> Tensor:
        """Return adversarial examples of the source model for a slice of the images."""
        threat = _threat_of(self.known, "`quantize` with adversarial calibration images")
        return run_attack(
            self.model, self.images[rows], self.labels[rows], threat, CALIBRATION_ATTACK, target=None,
            batch_size=max(BATCHES), seed=self.seed, index=None, progress=self.progress,
        )  # fmt: skip


def _threat_of(known: Known, why: str) -> ThreatModel:
    if not known.threat:
        raise InputError(f"{why} needs a threat model, and the model has none: give {known.threat_options}")
    return ThreatModel(known.threat["norm"], known.threat["eps"])


def _quantize(spec: str, folder: Path, task: _Task, bound: float | None, say: Callable[[str], None]) -> Quantization:
    """Replace the floating-point file by the quantised one, and return the record. bound: of the robust drop, in points."""
    quantizer, options = plugins.load("quantizer", spec), plugins.resolved("quantizer", spec)
    n = min(options.get("calibrate", len(task.images)), len(task.images) - (HELD_OUT if bound is not None else 0))
    if n < (asked := options.get("calibrate", n)):
        held_out = f", of which {HELD_OUT} are held out" if bound is not None else ""
        say(f"calibrated on {n} images, not {asked}: there are {len(task.images)}{held_out}")
    chosen, count = task.images[:n], round(options.get("adversarial", 0.0) * n)
    if count:
        chosen = torch.cat([task.attack(slice(count)), chosen[count:]])
    calibration = Calibration(task.known.data, task.known.split, n, _hash(chosen), count)
    source, rounded = folder / MODEL, folder / "rounded.onnx"

    def quantize(float_layers: Sequence[str], target: Path) -> list[str]:
        return quantizer(source, target, chosen, float_layers, task.progress)

    drop = None
    if bound is None:
        kept = quantize((), rounded)
    else:
        threat = _threat_of(task.known, "`max_robust_drop`")
        held = HeldOut(task.model, task.images[-HELD_OUT:], task.labels[-HELD_OUT:], threat, task.seed, task.progress)
        kept, drop = keep_robust(quantize, rounded, weighted_nodes(source), bound, held, say)
    expected = predict(task.model, chosen, max(BATCHES)).argmax(1)
    same = (predict(OnnxNet(rounded), chosen, max(BATCHES)).argmax(1) == expected).double().mean().item()
    os.replace(rounded, source)
    full = str(plugins.Spec(plugins.parse("quantizer", spec).name, (), tuple(options.items())))
    record = Quantization(full, calibration, kept, same)
    if drop is not None:
        record.robust_drop, record.robust_drop_bound, record.robust_drop_n = drop.points, bound, drop.n
    return record


def _hash(images: Tensor) -> str:
    import hashlib

    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
