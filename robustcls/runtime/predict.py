"""Logits of many images."""

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

LOOKED_AT = 4  # images


@torch.no_grad()
def predict(model: nn.Module, x: ImageRows, batch_size: int | OomSafeBatches, *, label: str = "") -> Tensor:
    """fp32 logits N,K on the CPU for images N,C,H,W on any device. label: what progress on stderr is called; "": none."""
    device = device_of(model)
    fp32 = model if isinstance(model, Counted) else Counted(model)
    parts = batch_size if isinstance(batch_size, OomSafeBatches) else OomSafeBatches(batch_size)
    found, done = torch.empty(0), 0
    with Bar(len(x), label, "image", show=bool(label)) as bar:
        for logits in parts.map(lambda rows: fp32(x[rows].to(device)).cpu(), torch.arange(len(x))):
            if (
                not done
            ):  # one tensor: kept ones would lie between freed images, and the heap would grow by an image for each
                found = logits.new_empty(len(x), *logits.shape[1:])
            found[done : done + len(logits)] = logits
            done += len(logits)
            bar.advance(len(logits))
    return found


def classifier_of(
    model: nn.Module, images: Tensor, classes: int | None = None, labels: Tensor | None = None
) -> tuple[nn.Module, str]:
    """The model where it gives logits N,K, else one around it that does, and what was taken of its output, in a line.

    images: N,C,H,W on any device, of which the first few are passed through. classes: how many there are, where the model
    itself does not say. labels: N. The model is left as it was. Raises InputError where it cannot take the image.
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
    """As `classifier_of`, with a warning that says what was taken where the model gives something else than logits."""
    fitted, taken = classifier_of(model, images, labels=labels)
    if fitted is not model:
        warnings.warn(f"{type(model).__name__}: {taken}", stacklevel=4)
    return fitted
