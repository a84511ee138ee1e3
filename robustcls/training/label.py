"""Pseudo-labels: a model, the teacher, predicts the class of unlabelled images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from numpy import ndarray
from torch import Tensor, nn

import robustcls
from robustcls.core.classifier import check_images, device_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.core.gradients import frozen
from robustcls.core.logits import unwrapped
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.options import REST, parse_batch_size, parse_numbers
from robustcls.data.images import Images, as_tensor, hash_pixels
from robustcls.data.pseudo_labels import PseudoLabels, numbered
from robustcls.data.spec import check_named_by_file, check_outside
from robustcls.data.unlabelled import load_unlabelled
from robustcls.models.checkpoint import is_checkpoint
from robustcls.models.loading import LoadedModel, ModelSource, build_model, read_model
from robustcls.models.weights import hash_weights
from robustcls.results.artefact import Manifest
from robustcls.runtime.device import exact_fp32, resolve_batch_size, resolve_device
from robustcls.runtime.fused import uncompiled
from robustcls.runtime.predict import LOOKED_AT, classifier_of, predict
from robustcls.runtime.stored import EightBit, ImageRows
from robustcls.training.config import PYTHON
from robustcls.training.label_config import LabelConfig


def label(
    model: nn.Module, images: Tensor | ndarray, *, batch_size: int | str = "auto", progress: bool = False
) -> PseudoLabels:
    """Predict the class of each image, with its confidence, for `robustcls.train(pseudo_labels=FILE)`.

    Args:
        model: any module that returns logits N,K for [0, 1] pixels; it is not changed.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array. They are rounded to 8-bit pixels, as in image
            files.
        batch_size: images at a time.
        progress: show progress on stderr.

    Returns:
        A PseudoLabels with `.labels` int64 N and `.confidence` float32 N; `.save("labels.npz")` writes it.

    Raises:
        InputError: for images that the model cannot take, and where its logits are not finite.

    Example:
        >>> robustcls.label(teacher, images).save("labels.npz")
    """
    x = as_tensor(images, "images")
    check_images(x, input_size=input_size_of(model))
    pixels = (x.detach().cpu() * 255).round().to(torch.uint8)
    return _label(model, pixels, batch_size, progress=progress)


def label_spec(
    spec: str,
    out: str | Path,
    config: LabelConfig,
    *,
    inputs: Iterable[str] = (),
    say: Callable[[str], object] = lambda text: None,
) -> PseudoLabels:
    """Label the images of config.data with the model of a spec and write the labels to `out`, as `robustcls label` does.

    inputs: files that were read and that must not be overwritten. say: called with each message. Raises InputError.
    """
    check_writable(out, inputs=[spec, *inputs])
    if Path(out).suffix not in ("", ".npz"):
        raise InputError(f"labels are written as an .npz file, and {out} has another suffix: give `out=labels.npz`")
    if config.data not in (None, REST):
        check_outside(config.data, Path(out))
    parse_batch_size(config.batch_size)
    device = resolve_device(config.device)
    source = read_model(spec)
    if isinstance(source.content, Manifest) or is_checkpoint(source.content):  # the file records the size of its images
        loaded = _build(source, config, (3, 224, 224))
        images = _images(source, config, tuple(loaded.classes), input_size_of(loaded.model))
    else:
        images = _images(source, config, (), None)
        loaded = _build(source, config, images.pixels.shape[1:])
    check_images(images.batch(slice(1))[0], input_size=input_size_of(loaded.model))
    for line in loaded.notes:
        say(line)
    say(f"{len(images)} images of {images.name}" + (f"; {images.note}" if images.note else ""))
    batch_size = config.batch_size or "auto"
    labels = _label(loaded.model.to(device), images.pixels, batch_size, loaded, images.name, progress=not config.quiet)
    labels.save(out)
    return labels


def _build(source: ModelSource, config: LabelConfig, size: torch.Size | tuple[int, ...]) -> LoadedModel:
    mean, std = parse_numbers(config.mean, "mean"), parse_numbers(config.std, "std")
    return build_model(source, arch=config.arch, classes=(), input_size=tuple(size), mean=mean, std=std)


def _images(source: ModelSource, config: LabelConfig, classes: tuple[str, ...], size: Sequence[int] | None) -> Images:
    own = source.meta.get("data")
    trained: Mapping = source.meta.get("config", {})
    if own == PYTHON or not isinstance(own, str):
        own = ""
    data = config.data or REST
    if data == REST:
        if not own:
            raise InputError(
                f"{source.spec} does not say which images its training left out: name the images with `data`, as folder:DIR"
            )
        check_named_by_file(own, source.spec)
        if trained.get("limit_train") is None:
            raise InputError(
                f"the training of {source.spec} left out no images: name others with `data`, as folder:DIR"
            )
    return load_unlabelled(
        data,
        data=own,
        classes=classes,
        size=size,
        seed=source.meta.get("seed", 0),
        limit_train=trained.get("limit_train"),
        data_dir=config.data_dir or source.meta.get("data_dir"),
        skip_corrupt=config.skip_corrupt,
    )


def _label(
    model: nn.Module,
    pixels: Tensor,
    batch_size: int | str,
    loaded: LoadedModel | None = None,
    data: str = "",
    *,
    progress: bool,
) -> PseudoLabels:
    """Label pixels, uint8 N,C,H,W. loaded: the file that the model comes from, if any. data: name of the images."""
    x: ImageRows = EightBit(pixels)
    fitted, _ = classifier_of(model, x[:LOOKED_AT])
    size = resolve_batch_size(batch_size, pixels.shape[1:], device_of(model))
    with frozen(fitted), uncompiled(), exact_fp32():
        logits = predict(fitted, x, size, label="labelling" if progress else "")
    labels = predict_labels(logits)
    if lost := int((labels == NO_ANSWER).sum()):
        raise InputError(
            f"the model gives no class for {lost} of {len(labels)} images: its logits are not finite numbers"
        )
    names = (loaded.classes if loaded else ()) or getattr(unwrapped(model), "classes", None) or ()
    outputs = logits.shape[1]
    return PseudoLabels(
        labels,
        logits.softmax(1).amax(1),
        tuple(map(str, names)) if len(names) == outputs else numbered(outputs),
        hash_pixels(pixels),
        (loaded.sha256 if loaded else "") or hash_weights(unwrapped(model)),
        loaded.name if loaded else type(unwrapped(model)).__name__,
        data,
        robustcls.__version__,
    )
