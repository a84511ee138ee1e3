"""The smoothed classifier: the class that a model predicts most often under Gaussian noise."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.logits import logits_of, mean_probabilities
from robustcls.core.losses import predict_labels
from robustcls.core.seeds import mix
from robustcls.models.wrappers.averaged import Averaged


def smoothed(model: nn.Module, *, sigma: float, draws: int = 20) -> nn.Module:
    """A model smoothed by a vote under Gaussian noise (Cohen et al. 2019, arXiv:1902.02918), attacked with EOT.

    The noise has standard deviation `sigma` on pixels in [0, 1]. It is added before the normalisation and not clamped. In the
    limit of many draws, this is the classifier that `robustcls certify` certifies. Each forward pass has new draws, as in
    `averaged`, and each draw has one vote. The logit of a class is the logarithm of its share of the votes, where the mean
    softmax counts as one more vote. The mean softmax breaks ties and carries the gradient; for the cross-entropy, this is the
    gradient of SmoothAdv (Salman et al. 2019, arXiv:1906.04584, equation 3).

    With few draws, a class with a narrow majority may lose the vote by chance. That is not an error of the smoothed classifier.
    `robustcls.certification.smoothing.predict` uses as many draws as the requested confidence needs, or abstains.

    Example:
        >>> model = robustcls.smoothed(robustcls.load("ckpt.pt"), sigma=0.25)
        >>> robustcls.evaluate(model, images, labels, "l2:0.5", suite="rand")
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"smoothed({model!r:.40}) is a wrapper around nothing: give a torch.nn.Module")
    check_sigma(sigma)
    draws = whole("draws", draws)
    if draws < 1:
        raise InputError(f"smoothed(draws={draws}): a vote needs 1 draw or more")
    return Smoothed(model, float(sigma), draws)


def check_sigma(sigma: float) -> None:
    """Raise InputError unless sigma is a standard deviation above 0."""
    if not isinstance(sigma, Real) or isinstance(sigma, bool):
        raise InputError(f"sigma={sigma!r:.40} is not a number: give the standard deviation of the noise, such as 0.25")
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma={sigma:g}: noise without spread proves nothing: give a number above 0, such as 0.25")


def whole(name: str, value: Any) -> int:
    """Return the value of an option as an int. Raises InputError unless it is of an integer type."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    like = int(value) if isinstance(value, float) and 1 <= value < 1e9 else 1000
    raise InputError(f"{name}={value!r:.40} is not a whole number: give one such as {name}={like}")


class Smoothed(Averaged):
    """The shares of votes under noise, as logits; each pass has new draws."""

    def __init__(self, model: nn.Module, sigma: float, draws: int) -> None:
        super().__init__(model, draws)
        draws_option = f", draws={draws}" if draws != 20 else ""
        self.title = f"smoothed({getattr(model, 'title', type(model).__name__)}, sigma={sigma}{draws_option})"
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        votes, logs = torch.zeros(1, device=x.device), list[Tensor]()
        for _ in range(self.repeats):
            generator = torch.Generator(x.device).manual_seed(mix(self.seed, self.drawn))
            self.drawn += 1
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            logits = logits_of(self.model(x + self.sigma * noise))
            if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                shape = tuple(getattr(logits, "shape", ()))
                raise InputError(
                    f"the model inside smoothed gives {shape}: it must give logits N,K of two classes or more"
                )
            logs.append(logits.float().log_softmax(1))
            classes = torch.arange(logits.shape[1], device=x.device)
            # A draw for which no class is predicted has no vote.
            votes = votes + (predict_labels(logits.detach())[:, None] == classes).float()
        mean = mean_probabilities(logs)
        return torch.logaddexp(votes.log(), mean) - math.log(len(logs) + 1)
