"""Export a module, or any model that `--model` accepts, as an artefact."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier, check_images, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.options import parse_numbers
from robustcls.core.threat import ThreatModel
from robustcls.data.spec import check_named_by_file, decoded_alike, decoding_of, resized_alike
from robustcls.data.splits import load_split
from robustcls.deploy.config import ExportConfig
from robustcls.deploy.export import Known, check_options, export_model
from robustcls.deploy.folder import check_place, claimed
from robustcls.images.decode import COLOUR, Form, rules_of
from robustcls.images.formats import formats
from robustcls.models import loading
from robustcls.models.artefact import load_artefact
from robustcls.models.onnx.net import net_of
from robustcls.models.weights import hash_weights
from robustcls.models.zoo import decoding_of_zoo, is_zoo
from robustcls.results.artefact import MODEL, Decoding, Manifest, Source

IMAGES = 768  # training images for checks, references and calibration
KEPT = ("data", "seed", "data_dir", "config")  # entries of a checkpoint's metadata that are copied into the manifest


@dataclass
class Artefact:
    """An exported folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def file(self) -> Path:
        """The path of the ONNX file."""
        return self.folder / MODEL

    def load(self) -> Classifier:
        """Return the model that runs the file, as `robustcls.load(folder)` does."""
        return load_artefact(self.folder, self.manifest)


def warn_of_losses(line: str) -> None:
    """Turn a line that starts with "warning: " into a UserWarning at the caller of `export`; ignore other lines."""
    if line.startswith("warning: "):
        warnings.warn(line.removeprefix("warning: "), stacklevel=5)


def export(
    model: nn.Module,
    out: str | Path,
    *,
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
    prune: str | None = None,
    quantize: str | None = None,
    max_robust_drop: float | None = None,
    threat: ThreatModel | str | None = None,
    name: str = "",
    deploy: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = warn_of_losses,
) -> Artefact:
    """Export a model as an artefact: a folder that runs without PyTorch, checked against the model before it is written.

    The folder contains `model.onnx` (from float32 N,C,H,W in [0, 1] to logits, with the normalisation inside, for any N),
    `manifest.json`, `reference.npz` (images and logits that a runtime must reproduce) and `drift.npz`. `load(out)` returns it
    as a model whose logits come from onnxruntime and whose gradients come from the same graph in PyTorch.

    Args:
        model: any module that returns logits N,K for [0, 1] pixels and that `torch.onnx.export` can export.
        out: the folder; an earlier artefact there is replaced.
        calibration: training images, float N,C,H,W in [0, 1], for the checks and for quantisation; never test images.
            Without them the checks use uniform noise.
        labels: labels N of the calibration images; the model's own predictions if not given.
        prune: a spec such as `channels(ratio=0.5)`. The pruned model is not trained again; a UserWarning says what this
            costs on images held out from `calibration`. `train(init=..., prune=...)` loses less. See `robustcls list prune`.
        quantize: `int8`, or a spec such as `int8(calibrate=256, keep="first_and_last")`. See `robustcls list quantizer`.
        max_robust_drop: largest loss of robust accuracy by quantisation, in percentage points, under `threat` on the last 256
            calibration images. Layers are put back to floating point, most harmful first, until the loss is small enough.
        threat: threat model; saved in the manifest, as the default for attacks on the artefact.
        name: name of the model in the manifest.
        deploy: write `deploy/` into the folder: a Dockerfile, and files for KServe, KEDA and Ray Serve.
        overwrite: replace a folder that contains something else.
        say: is called with each line of progress; by default, losses are raised as a UserWarning.

    Returns:
        The artefact: `.folder`, `.file`, `.manifest`, `.load()`.

    Raises:
        InputError: if PyTorch cannot export the model (the message names the operator), or if the exported file predicts
            other labels, or logits that differ by more than 1e-4 of the largest. Nothing is left at `out` then.

    Example:
        >>> artefact = robustcls.export(model, "artefact", calibration=train_images, quantize="int8")
        >>> robustcls.evaluate(artefact.load(), images, labels, "linf:8/255").robust.accuracy
    """
    size = input_size_of(model) or (tuple(calibration.shape[1:]) if calibration is not None else None)
    if size is None:
        raise InputError(
            f"{type(model).__name__} does not say which images it takes: give `calibration` images N,C,H,W"
        )
    if calibration is None and quantize:
        raise InputError("`quantize` measures the ranges of activations: give training images as `calibration`")
    if calibration is None and prune:
        raise InputError("`prune` ranks channels on images: give training images as `calibration`")
    if calibration is not None:
        check_images(calibration, labels, input_size_of(model))
    known = _known(model, name or type(model).__name__, size)
    known.threat_options = '`threat`, such as "linf:8/255"'
    known.data, known.split = ("given", "given") if calibration is not None else ("uniform noise", "none")
    images = _noise(size) if calibration is None else calibration.detach().to("cpu", torch.float32)
    known.deploy = deploy
    if threat is not None:
        ball = ThreatModel.parse(threat) if isinstance(threat, str) else threat
        known.threat = {"norm": ball.norm, "eps": ball.eps}
    with claimed(out, overwrite):
        manifest = export_model(
            model, out, known, images, labels=labels, prune=prune, quantize=quantize, max_robust_drop=max_robust_drop,
            overwrite=overwrite, say=say,
        )  # fmt: skip
    return Artefact(Path(out), manifest)


def export_spec(
    spec: str,
    out: str | Path,
    options: ExportConfig,
    *,
    overwrite: bool = False,
    inputs: Iterable[str] = (),
    say: Callable[[str], None],
) -> Artefact:
    """Export the model that `--model` names, with training images of its data set, and return the artefact.

    inputs: files that are read besides the model and the data, which `out` must not replace. Raises InputError.
    """
    if options.split == "test":
        raise InputError("calibration on test images would bias the evaluation of the file: give `split=train`")
    check_options(options.quantize, options.max_robust_drop)
    read = [spec, *inputs, *([options.data_dir] if options.data_dir else [])]
    with claimed(out, overwrite, read):
        source = loading.read_model(spec)
        if not source.single:
            raise InputError(f"{spec} is an ensemble, which is not exported as one file: export its models one by one")
        if source.wrapper:
            raise InputError(f"{spec} is a model in a wrapper, which cannot be exported: export {source.spec} itself")
        data = options.data or source.meta.get("data")
        if data and data.startswith("folder:"):
            check_place(Path(out), overwrite, [data.removeprefix("folder:").partition("(")[0]])
        chosen = _without_data(source, options) if data is None else _with_data(source, data, options, say)
        for line in chosen.loaded.notes:
            say(line)
        known = chosen.known
        if not isinstance(source.content, Manifest):  # a manifest already names the original source
            known.source.sha256 = source.sha256 or known.source.sha256
        known.trained = {key: source.meta[key] for key in KEPT if key in source.meta}
        known.threat = _threat(source.meta, options)
        known.deploy = options.deploy
        manifest = export_model(
            chosen.loaded.model, out, known, chosen.images, labels=chosen.labels, prune=options.prune,
            quantize=options.quantize, max_robust_drop=options.max_robust_drop, seed=options.seed, overwrite=overwrite,
            say=say, progress=not options.quiet,
        )  # fmt: skip
    return Artefact(Path(out), manifest)


@dataclass
class _Chosen:
    """A model, and the images N,C,H,W on which its file is checked, with labels N if they are known."""

    loaded: loading.LoadedModel
    known: Known
    images: Tensor
    labels: Tensor | None = None


def _without_data(source: loading.ModelSource, options: ExportConfig) -> _Chosen:
    """The model with images of uniform noise, which suffice to check a file but not to calibrate or prune one."""
    if options.quantize:
        raise InputError(
            f"`quantize` measures activation ranges on training images, and {source.spec} names no data: give `data`"
        )
    if options.prune:
        raise InputError(f"`prune` ranks channels on training images, and {source.spec} names no data: give `data`")
    loaded = loading.load(source.spec, arch=options.arch, classes=(), input_size=None, **_normalisation(options))
    size = input_size_of(loaded.model)
    if size is None:
        raise InputError(f"{source.spec} does not say which images it takes: give `data`")
    known = _known(loaded.model, loaded.name, size)
    known.data, known.split = "uniform noise", "none"
    return _Chosen(loaded, known, _noise(size))


def _with_data(source: loading.ModelSource, data: str, options: ExportConfig, say: Callable[[str], None]) -> _Chosen:
    """The model with images of a data set, decoded in the same way as the model's training images."""
    own = source.meta.get("data")
    if own and not options.data:
        check_named_by_file(own, source.spec)
    if own:
        data, _ = decoded_alike(data, own)
    elif is_zoo(source.spec):
        data, _ = resized_alike(data, decoding_of_zoo(source.spec))
    split = partial(
        load_split, data, seed=source.meta.get("seed", options.seed),
        data_dir=options.data_dir or source.meta.get("data_dir"), skip_corrupt=options.skip_corrupt,
        limit_train=source.meta.get("config", {}).get("limit_train"), n=IMAGES,
    )  # fmt: skip
    chosen = split(options.split)
    size = tuple(chosen.pixels.shape[1:])
    loaded = loading.build_model(
        source, arch=options.arch, classes=chosen.classes, input_size=size, **_normalisation(options)
    )
    images, labels = chosen.batch()
    check_images(images[:1], input_size=input_size_of(loaded.model))
    mapped, taken = loading.fit_to_data(loaded, images[:32], chosen.classes)
    known = _known(loaded.model, loaded.name, size, decoding_of(data))
    known.data, known.split = data, options.split
    with suppress(InputError):  # there may be too few images for a validation split
        known.unseen = split("val").batch()[0]  # a model is more confident on its training images than on new ones
    say(f"{len(images)} images of {data}, split {options.split}" + (f"; {taken}" if taken else ""))
    return _Chosen(loaded, known, images, torch.tensor(mapped.outputs)[labels])


def _normalisation(options: ExportConfig) -> dict[str, Any]:
    return {one: parse_numbers(getattr(options, one), one) for one in ("mean", "std")}


def _threat(meta: Mapping[str, Any], options: ExportConfig) -> dict[str, Any]:
    """The threat model from the options, or else from the checkpoint, whose eps is used only with the checkpoint's norm."""
    known = meta.get("threat")
    if not known and options.norm is None and options.eps is None:
        return {}
    threat = ThreatModel.chosen(options.norm, options.eps, known or {"norm": None if options.norm else "linf"})
    return {"norm": threat.norm, "eps": threat.eps}


def _known(model: nn.Module, name: str, size: Any, decoded: Mapping[str, Any] | None = None) -> Known:
    """What is known of a model from its own attributes. decoded: how its images were decoded, as keywords of Form."""
    classes = [str(one) for one in getattr(model, "classes", ()) or ()]
    channels, height, width = size
    net = net_of(model)
    source = Source(
        name, arch=str(getattr(model, "arch", "") or type(model).__name__), sha256=hash_weights(model),
        parameters=sum(one.numel() for one in model.parameters()) if net is None else net.parameters_in_file,
    )  # fmt: skip
    form = Form(height, width, channels, **decoded or {})
    decoding = Decoding(
        height, width, channels, COLOUR.get(channels, ""), form.resizing, form.crop, rules_of(form.scale), form.scale,
        formats(), form.resize, form.filter,  # type: ignore[arg-type]
    )  # fmt: skip
    known = Known(name, classes, (channels, height, width), source, decoding)
    if net is not None and (before := net.manifest) is not None:  # a copy of an artefact keeps the artefact's source
        known.source, known.threat, known.trained = replace(before.source), dict(before.threat), dict(before.trained)
        known.quantization, known.pruning = before.quantization, before.pruning
        if not decoded:
            known.decoding = before.decoding
    return known


def _noise(size: Any) -> Tensor:
    return torch.rand(IMAGES // 8, *size, generator=torch.Generator().manual_seed(0))
