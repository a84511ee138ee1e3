"""TRADES."""

from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl, labelled_mean
from robustcls.core.objective import BoundAttack, Loss
from robustcls.core.traits import traits


@traits(unlabelled=True)
def trades(
    model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, beta: float = 6.0, label_smoothing: float = 0.0
) -> Loss:
    """Clean cross-entropy plus beta times the divergence under attack (Zhang et al. 2019, arXiv:1901.08573).

    The divergence is KL(p(x) || p(x_adv)). The attack maximises it and does not use the labels. Images without a label enter
    only the second term: unsupervised adversarial training (Alayrac et al. 2019, arXiv:1905.13725).
    """
    if beta < 0:
        raise InputError(f"trades(beta={beta}): give 0 or more")
    x_adv = attack(model, x, y, loss=kl)
    clean, attacked = model(x), model(x_adv)
    natural = labelled_mean(cross_entropy(clean, y, label_smoothing=label_smoothing), y)
    robust = kl(attacked, clean).mean()
    return Loss(natural + beta * robust, attacked, seen="adversarial", parts={"clean": natural, "kl": robust})
