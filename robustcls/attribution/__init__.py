"""Attribution maps: how much each pixel contributes to a class's logit. `robustcls.explain` runs any of the methods here.

A method is a function `(model, x, target, *, options) -> Tensor` that returns maps N,C,H,W or N,H,W. `explain` makes sure that
x is on the model's device, target has one class per image, the model is in eval mode with frozen parameters, and torch's and
numpy's random generators are seeded. A method explains the logit itself, never the softmax, which would mix in the evidence
for other classes. Keywords named `reference` and `background` receive images, as described in `explain`. A method's file may
also define `note(model, x, *, options) -> str`, what a reader of the maps must know, and, if a map adds up to logit(x) -
logit(origin), `origin(x, *, options) -> Tensor`.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from inspect import signature

import torch
from numpy import ndarray
from torch import Tensor, nn

from robustcls.attribution._batches import images_per_chunk, placed, seeded
from robustcls.attribution._preparation import input_kept
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import finite, frozen
from robustcls.core.losses import predict_labels
from robustcls.core.options import parse_batch_size
from robustcls.core.plugins import AnyPlugin, load, parse, resolved
from robustcls.core.progress import follow
from robustcls.data.images import as_tensor
from robustcls.runtime.predict import classifier_with_warning


def explain(
    model: nn.Module,
    images: Tensor | ndarray,
    target: int | Tensor | Sequence[int] | None = None,
    method: AnyPlugin = "integrated_gradients",
    *,
    batch_size: int | str | None = "auto",
    seed: int = 0,
    reference: Tensor | None = None,
    background: Tensor | None = None,
    keep_nonfinite: bool = False,
    progress: bool = False,
) -> Tensor:
    """Return attribution maps of the target class's logit: N,C,H,W, or N,H,W from methods on a grid.

    Maps are float32, on the device of the images.

    Args:
        model: any module that maps [0, 1] pixels to logits N,K.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array.
        target: one class for all images, or one per image; None uses each image's predicted class.
        method: a spec such as `integrated_gradients(steps=64, baseline="mean")`, or a function `(model, x, target) -> maps`.
            See `robustcls list attribution`.
        batch_size: images per batch.
        seed: for methods that draw random numbers; every image gets the same draws.
        reference: images N,C,H,W from which superpixels are made, if `images` are their adversarial versions.
        background: baselines M,C,H,W for the SHAP methods, instead of each image's own black, mean and blur.
        keep_nonfinite: keep entries that are not finite; by default they become 0, and a UserWarning says in how many maps.
        progress: show progress on stderr.

    Raises:
        InputError: for invalid images, targets, methods or options.

    Example:
        >>> maps = robustcls.explain(model, images, target=labels, method="gradcam")
    """
    images = as_tensor(images, "images")
    reference, background = (one if one is None else as_tensor(one, "images") for one in (reference, background))
    function, name = load("attribution", method), str(parse("attribution", method))
    model, labels = _checked(model, images, target, reference, background)
    given = parse_batch_size(batch_size)
    size = given if isinstance(given, int) else images_per_chunk(images, device_of(model))
    takes, extra, maps = signature(function.func).parameters, {}, []
    # Maps need gradients even if the caller disabled them, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), input_kept(model):
        for start in follow(range(0, len(images), size), name, show=progress):
            x = placed(model, images[start : start + size])
            classes = _classes(model, x, None if labels is None else labels[start : start + size])
            if reference is not None and "reference" in takes:
                extra["reference"] = placed(model, reference[start : start + size])
            if background is not None and "background" in takes:
                extra["background"] = placed(model, background)
            with seeded(seed):
                maps.append(_run(function, model, x, classes, name, extra))
    every = torch.cat(maps).to(images.device)
    if keep_nonfinite:
        return every
    if remark := nonfinite_remark(nonfinite_rows(every)):
        warnings.warn(f"{name}: {remark}", stacklevel=2)
    return finite(every)


def nonfinite_rows(maps: Tensor) -> Tensor:
    """Whether each map has entries that are not finite: N, bool."""
    return (~maps.isfinite()).flatten(1).any(1)


def nonfinite_remark(rows: Tensor) -> str:
    """Return a remark on the maps with values that were not finite, given by `rows` (N, bool); "" if there are none."""
    return f"{int(rows.sum())} of {len(rows)} maps had values that are not finite, taken as 0" if rows.any() else ""


def one_each(target: int | Tensor | Sequence[int], images: Tensor) -> Tensor:
    """Return the target class of each image, N, on the CPU. Raises InputError unless there is one for all, or one for each."""
    labels = torch.as_tensor(target, device="cpu")
    labels = labels.expand(len(images)) if labels.ndim == 0 else labels
    check_images(images, labels)
    return labels


def note(model: nn.Module, images: Tensor, method: AnyPlugin = "integrated_gradients") -> str:
    """Return what a reader of the method's maps must know, in a few words: baseline and steps, or layer and grid; or "".

    images: N,C,H,W as for `explain`; the first is passed through the model if the answer depends on it.
    """
    describe = _defined_with(method, "note")
    if describe is None:
        return ""
    check_images(images, input_size=input_size_of(model))
    model = classifier_with_warning(model, images)
    with torch.inference_mode(False), frozen(model), input_kept(model):
        return describe(model, placed(model, images[:1]), **resolved("attribution", method))


def origin(images: Tensor, method: AnyPlugin) -> Tensor | None:
    """Return the images from which the method's maps add up to the change of the logit; None if the method is not complete."""
    start = _defined_with(method, "origin")
    return None if start is None else start(images, **resolved("attribution", method))


def collapse(maps: Tensor) -> Tensor:
    """Sum maps N,C,H,W over the channels to N,H,W; maps that are N,H,W already are returned unchanged.

    The sum keeps the meaning of a map. The pixels of signed maps still add up to the same total (completeness of integrated
    gradients), and evidence for and against the class cancels within a pixel as it does in the logit. For magnitudes, the sum
    is the l1 norm of a pixel's gradient: how far the logit moves, to first order, if each channel moves by one.
    """
    return maps.sum(1) if maps.ndim == 4 else maps


def _defined_with(method: AnyPlugin, name: str) -> Callable | None:
    """Return what the method's file defines under this name; None if the method is the caller's own function."""
    if not isinstance(method, str):
        return None
    function = load("attribution", method)
    return getattr(sys.modules[function.func.__module__], name, None)


def _checked(
    model: nn.Module,
    images: Tensor,
    target: int | Tensor | Sequence[int] | None,
    reference: Tensor | None,
    background: Tensor | None,
) -> tuple[nn.Module, Tensor | None]:
    """Return the model, wrapped to give logits, and the target classes (N). Raises InputError for images that do not fit."""
    check_images(images, input_size=input_size_of(model))
    model = classifier_with_warning(model, images)
    for others in (reference, background):
        if others is not None:
            check_images(others, input_size=images.shape[1:])
    if reference is not None and len(reference) != len(images):
        raise InputError(f"{len(reference)} reference images for {len(images)} images: give one per image")
    return model, None if target is None else one_each(target, images)


def _classes(model: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """Return the class to explain for each image, on x's device. Raises InputError for a class that the model lacks."""
    try:
        with torch.no_grad():
            logits = model((x if labels is None else x[:1]).clone())  # one image is enough to count the classes
    except RuntimeError as error:
        size, reason = "x".join(map(str, x.shape[1:])), " ".join(str(error).split())
        raise InputError(f"the model cannot take images of {size}: {reason}") from error
    if labels is None:
        usable = isinstance(logits, Tensor) and logits.ndim == 2
        labels = predict_labels(logits).clamp_min(0) if usable else torch.zeros(len(x))
    check_logits(logits, labels)
    return labels.to(x.device, torch.int64, copy=True)


def _run(function, model: nn.Module, x: Tensor, classes: Tensor, method: str, extra: dict[str, Tensor]) -> Tensor:
    """Return the maps of a batch, float32, on the CPU. Raises InputError without a gradient, or without a map per image."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")  # captum warns that it sets hooks
            maps = function(model, x, classes, **extra)
    except RuntimeError as error:
        if "does not require grad" not in str(error) and "not have been used" not in str(error):
            raise
        raise InputError(
            f"{method} found no gradient: the logits do not depend on what it differentiates: is the model differentiable?"
        ) from None
    if not isinstance(maps, Tensor):
        raise InputError(f"{method} gives {type(maps).__name__}: a map must be a tensor N,C,H,W or N,H,W")
    if maps.shape not in (x.shape, (len(x), *x.shape[2:])):
        raise InputError(
            f"{method} gives {tuple(maps.shape)} for images {tuple(x.shape)}: a map must be N,C,H,W or N,H,W of their size"
        )
    return maps.detach().to("cpu", torch.float32)
