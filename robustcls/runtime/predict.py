"""Computes the logits of many images, and wraps models that do not return logits."""

import warnings

import torch
from torch import Tensor, nn

from robustcls.core.classifier import device_of, dtype_of
from robustcls.core.errors import as_input_error
from robustcls.core.logits import as_classifier
from robustcls.core.progress import Bar
from robustcls.runtime.device import exact_fp32
from robustcls.runtime.fused import Counted, uncompiled
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.stored import ImageRows

LOOKED_AT = 4  # images that are used to find out what a model returns


@torch.no_grad()
def predict(model: nn.Module, x: ImageRows, batch_size: int | OomSafeBatches, *, label: str = "") -> Tensor:
    """Return fp32 logits N,K on the CPU for images N,C,H,W on any device. label: of the progress bar; "" for no bar."""
    device = device_of(model)
    fp32 = model if isinstance(model, Counted) else Counted(model)
    parts = batch_size if isinstance(batch_size, OomSafeBatches) else OomSafeBatches(batch_size)
    result, done = torch.empty(0), 0
    with Bar(len(x), label, "image", show=bool(label)) as bar:
        for logits in parts.map(lambda rows: fp32(x[rows].to(device)).cpu(), torch.arange(len(x))):
            # Write into a single tensor. Many small ones would lie between freed images and fragment the heap.
            if not done:
                result = logits.new_empty(len(x), *logits.shape[1:])
            result[done : done + len(logits)] = logits
            done += len(logits)
            bar.advance(len(logits))
    return result


def classifier_of(
    model: nn.Module, images: Tensor, classes: int | None = None, labels: Tensor | None = None
) -> tuple[nn.Module, str]:
    """Return a model that gives logits N,K: the model itself, or a wrapper; and a note on which part of the output is used.

    The model is not changed. Raises InputError where it cannot take the images.

    images: N,C,H,W on any device; the first few are passed through the model. classes: their number, where the model does not
    name its classes. labels: N.
    """
    image = images[:LOOKED_AT].detach().to(device_of(model), dtype_of(model))
    own = getattr(model, "classes", None)
    classes = (len(own) if isinstance(own, (tuple, list)) else None) or classes
    size = "x".join(map(str, image.shape[1:]))
    last = image.shape[3] in (1, 3) and image.shape[1] not in (1, 3)
    hint = ": they look like N,H,W,C: give N,C,H,W" if last else ""
    with as_input_error(f"the model cannot take images of {size}{hint}"), uncompiled(), exact_fp32():
        return as_classifier(model, image, classes, labels)


def classifier_with_warning(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> nn.Module:
    """Like `classifier_of`, but warn about which part of the output is used instead of returning the note."""
    fitted, note = classifier_of(model, images, labels=labels)
    if fitted is not model:
        warnings.warn(f"{type(model).__name__}: {note}", stacklevel=4)
    return fitted
