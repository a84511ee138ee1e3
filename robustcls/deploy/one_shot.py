"""Prune a model for export without training it again, and measure what this costs."""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.threat import ThreatModel
from robustcls.deploy.prune import RANKED_ON, Pruned, prune, size_of
from robustcls.deploy.robust_drop import BATCH, HELD_OUT, HeldOut
from robustcls.models.onnx.net import net_of
from robustcls.runtime.predict import predict


def prune_once(
    model: nn.Module,
    method: str,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel | None,
    seed: int,
    say: Callable[[str], None],
) -> Classifier:
    """Return a pruned copy that is not trained again. A warning gives the loss of accuracy on held-out images.

    Args:
        model: the model; it is not changed.
        method: a spec such as `channels(ratio=0.5)`.
        images, labels: training images N,C,H,W in [0, 1] and labels N; the last images are held out for the measurement.
        threat: threat model of the attack on both models; without it only clean accuracy is measured.
        seed: seed of the attack.
        say: is called with each line of progress.

    Raises:
        InputError: if the model cannot be pruned.
    """
    if not isinstance(model, Classifier) or net_of(model) is not None:
        raise InputError("`prune` needs a Classifier with layers, such as a checkpoint's, not a file or other modules")
    held = min(HELD_OUT, len(images) // 2)
    if held < 1:
        raise InputError(
            f"{len(images)} images are too few to rank channels on some and to measure accuracy on others: give more"
        )
    pruned = copy.deepcopy(model)
    prune(pruned, method, images[:-held][:RANKED_ON], labels[:-held][:RANKED_ON])
    parameters, macs = zip(size_of(model), size_of(pruned), strict=True)
    say(str(Pruned(method, parameters, macs)))
    x, y = images[-held:], labels[-held:]
    if threat is None:
        with frozen(model), frozen(pruned):
            clean = [(predict_labels(predict(net, x, BATCH)) == y).double().mean().item() for net in (model, pruned)]
        costs = f"clean accuracy {clean[0]:.1%} -> {clean[1]:.1%}"
    else:
        pairs = HeldOut(model, x, y, threat, seed).accuracies(pruned)
        costs = " and ".join(f"{name} accuracy {before:.1%} -> {after:.1%}" for name, (before, after) in pairs.items())
        costs += f" under {threat}"
    say(
        f"warning: pruned without training again: {costs}, on {held} held-out training images: prune in training instead"
    )
    return pruned
