"""Adversarial logit pairing."""

from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, labelled_mean
from robustcls.core.objective import BoundAttack, Loss
from robustcls.core.traits import traits


@traits(unlabelled=True)
def alp(
    model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, weight: float = 0.5, label_smoothing: float = 0.0
) -> Loss:
    """Half clean, half adversarial cross-entropy, plus the squared distance of the logits (arXiv:1803.06373).

    Kannan et al. 2018. The distance of the logits needs no labels. With a weak inner attack, this objective tends to mask
    gradients rather than make the model robust (Engstrom et al. 2018, arXiv:1807.10272).

    weight: of the squared distance.
    """
    if weight < 0:
        raise InputError(f"alp(weight={weight}): give 0 or more")
    x_adv = attack(model, x, y)
    clean, attacked = model(x).float(), model(x_adv).float()
    entropies = [
        labelled_mean(cross_entropy(logits, y, label_smoothing=label_smoothing), y) for logits in (clean, attacked)
    ]
    entropy = (entropies[0] + entropies[1]) / 2
    pairing = (clean - attacked).square().mean()
    return Loss(
        entropy + weight * pairing, attacked, seen="adversarial", parts={"entropy": entropy, "pairing": pairing}
    )
