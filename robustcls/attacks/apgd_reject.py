"""Auto-PGD on a classifier and its detector jointly."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.attacks.apgd import Ascent
from robustcls.core.detector import Detector
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.losses import ATTACK_TIE, dlr, misclassified
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

WEIGHTS = (1.0, 0.1, 10.0)  # weights of the detector in successive restarts, times `weight`
ENOUGH = 0.2  # the DLR loss is clipped here: beyond it only the detector's term can improve
CLEAR = 0.02  # an example should lie this far below the threshold, in spreads of the clean images' scores


@traits(mask=True)
def apgd_reject(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 3,
    weight: float = 1.0,
    early_stop: bool = True,
    detector: Detector | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD towards an image that is misclassified and that the detector accepts.

    The loss is the DLR, clipped at 0.2, minus the detector's score above its threshold, in spreads of the clean images'
    scores. Carlini and Wagner 2017 (arXiv:1705.07263) ask evaluations to attack both jointly; the ascent is that of Croce and
    Hein 2020 (arXiv:2003.01690). weight: of the score in the first restart; the next two use a tenth and ten times of it.
    detector: the one given to `evaluate`; without a detector every prediction is accepted.
    """
    if restarts < 1 or not weight > 0:
        raise InputError(f"apgd_reject(restarts={restarts}, weight={weight}): give 1 or more, and a weight above 0")

    def both(images: Tensor) -> Tensor:
        """Return the logits and, as the last column, the detector's score above its threshold: N,K+1."""
        logits = model(images)
        refused = logits.new_full((len(logits),), -torch.inf) if detector is None else detector.excess(images, logits)
        return torch.cat([logits, refused[:, None]], 1)

    result, left = x.clone(), torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        goal = _Accepted(y[left], weight=weight * WEIGHTS[restart % len(WEIGHTS)])
        ascent = Ascent(both, threat, goal, goal.joint, steps, early_stop)
        x_adv = ascent.best_of(x[left], [None], 1, None, take(generator, left))
        with torch.no_grad():
            reached = goal.reached(both(x_adv), y[left])
        better = reached if restart else torch.ones_like(reached)
        result[left[better]] = x_adv[better]
        left = left[~reached]
        if len(left) == 0:
            break
    return result


@dataclass(frozen=True)
class _Accepted(Goal):
    """Misclassified and accepted, for outputs N,K+1 whose last column is the detector's score above its threshold."""

    weight: float = 1.0

    def joint(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss to maximise, N."""
        return dlr(outputs[:, :-1], y).clamp_max(ENOUGH) - self.weight * (outputs[:, -1] + CLEAR).clamp_min(0)

    def closeness(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.joint(logits, labels)

    def reached(self, logits: Tensor, labels: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
        return misclassified(logits[:, :-1], labels, tie=tie) & (logits[:, -1] < 0)
