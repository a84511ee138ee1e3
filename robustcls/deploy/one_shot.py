"""Prunes a model that is exported at once, without training it again, and shows what that costs."""

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
    """A pruned copy that is not trained again, as a warning says, with what it costs on images that ranked nothing.

    Args:
        model: stays as it is.
        method: a spec.
        images, labels: training images N,C,H,W in [0, 1] and N labels; the last of them are held out.
        threat: of the attack on both; without it clean accuracy alone is measured.
        seed: of the attack.
        say: is told, a line each.

    Raises:
        InputError: for a model that cannot be pruned.
    """
    if not isinstance(model, Classifier) or net_of(model) is not None:
        raise InputError("`prune` needs a Classifier with layers, such as a checkpoint's, not a file or other modules")
    held = min(HELD_OUT, len(images) // 2)
    if held < 1:
        raise InputError(f"{len(images)} images do not suffice to rank channels on some and to measure on others")
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
        f"warning: pruned without training it again: {costs}, on {held} held-out training images: prune in training instead"
    )
    return pruned
