"""Architectures, checkpoints and foreign weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcls.core.classifier import Classifier


def load(path: Any) -> "Classifier":
    """The classifier of a checkpoint: pixels in [0, 1], N,C,H,W, to logits N,K; in eval mode. Raises InputError."""
    from robustcls.models import loading

    return loading.load(path)
