"""Attribution maps: which pixels a class's logit depends on. One method per file; `robustcls.explain` runs any of them.

A method is `(model, x, target, *, options) -> Tensor`, N,C,H,W or N,H,W: x lies on the model's device, target holds one
class per image, the model is in eval mode with frozen parameters, and torch's and numpy's random streams begin at a seed,
all of which `explain` sees to. It explains the logit as the model gives it, never a softmax: there the other
classes' evidence would be mixed in. Keywords named `reference` and `background` are given images, as `robustcls.explain`
says. A method's file may also define `note(model, x, *, options) -> str`, what a reader of its maps must know, and, where a
map adds up to logit(x) - logit(origin), `origin(x, *, options) -> Tensor`.
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
    """Attribution maps of the target class's logit, float32 on the images' device: N,C,H,W, or N,H,W from methods on a grid.

    Args:
        model: any module that gives logits N,K for [0, 1] pixels.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array.
        target: one class for all images, or one per image; None takes each image's predicted class.
        method: a spec such as `integrated_gradients(steps=64, baseline="mean")`, or a function `(model, x, target) -> maps`.
            See `robustcls list attribution`.
        batch_size: images at a time.
        seed: of methods that draw random numbers; every image has the same draws.
        reference: the images N,C,H,W that superpixels are made of, where `images` are their adversarial versions.
        background: baselines M,C,H,W of the SHAP methods, in place of each image's own black, mean and blur.
        keep_nonfinite: leave entries that are not finite as they are; else they become 0, with a UserWarning that says in
            how many maps.
        progress: show progress on stderr.

    Raises:
        InputError: for images, targets, methods or options that do not fit.

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
    # Gradients are needed even where the caller switched them off, and tensors made in inference mode must be copied.
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
    if said := nonfinite_remark(nonfinite_rows(every)):
        warnings.warn(f"{name}: {said}", stacklevel=2)
    return finite(every)


def nonfinite_rows(maps: Tensor) -> Tensor:
    """Which of the maps have entries that are not finite: N, bool."""
    return (~maps.isfinite()).flatten(1).any(1)


def nonfinite_remark(rows: Tensor) -> str:
    """A remark on maps of which those in `rows` (N, bool) had values that were not finite; "" where none had."""
    return f"{int(rows.sum())} of {len(rows)} maps had values that are not finite, taken as 0" if rows.any() else ""


def one_each(target: int | Tensor | Sequence[int], images: Tensor) -> Tensor:
    """The target class of each image, N on the CPU. Raises InputError unless there is one for all, or one for each."""
    labels = torch.as_tensor(target, device="cpu")
    labels = labels.expand(len(images)) if labels.ndim == 0 else labels
    check_images(images, labels)
    return labels


def note(model: nn.Module, images: Tensor, method: AnyPlugin = "integrated_gradients") -> str:
    """What a reader of the method's maps must know, in a few words: baseline and steps, or layer and grid; may be empty.

    images: N,C,H,W as for `explain`; the first is passed through the model where the answer depends on it.
    """
    describe = _beside(method, "note")
    if describe is None:
        return ""
    check_images(images, input_size=input_size_of(model))
    model = classifier_with_warning(model, images)
    with torch.inference_mode(False), frozen(model), input_kept(model):
        return describe(model, placed(model, images[:1]), **resolved("attribution", method))


def origin(images: Tensor, method: AnyPlugin) -> Tensor | None:
    """The images from which the method's maps add up to the change of the logit; None where they do not claim to."""
    start = _beside(method, "origin")
    return None if start is None else start(images, **resolved("attribution", method))


def collapse(maps: Tensor) -> Tensor:
    """One value per pixel: the sum over channels. N,C,H,W to N,H,W; maps that are N,H,W already come back as they are.

    The sum is what keeps the meaning. Of signed maps, the pixels still add up to what the channels did (the completeness
    of integrated gradients), and evidence for and against cancels inside a pixel as it does in the logit. Of magnitudes,
    it is the l1 norm of a pixel's gradient: how far the logit moves, to first order, when each channel moves by one.
    """
    return maps.sum(1) if maps.ndim == 4 else maps


def _beside(method: AnyPlugin, name: str) -> Callable | None:
    """What the method's file defines under the name; nothing where the method is a function of the caller's own."""
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
    """The model as one that gives logits, and the target classes (N). Raises InputError for images that do not fit."""
    check_images(images, input_size=input_size_of(model))
    model = classifier_with_warning(model, images)
    for others in (reference, background):
        if others is not None:
            check_images(others, input_size=images.shape[1:])
    if reference is not None and len(reference) != len(images):
        raise InputError(f"{len(reference)} reference images for {len(images)} images: give one per image")
    return model, None if target is None else one_each(target, images)


def _classes(model: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """The class to explain for each image, on x's device. Raises InputError for a class that the model does not have."""
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
    """The maps of a batch, float32 on the CPU. Raises InputError where there is no gradient, or no map for each image."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")  # it announces its hooks
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
