"""The attack on explanations: the predicted label stays, the attribution map changes."""

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import finite, logits_and_gradient
from robustcls.core.losses import ATTACK_TIE, margin, predict_labels, tie_scale
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

ROUNDING = 1e-5  # relative decrease that counts as rounding, not as a moved map


@traits(keeps_label=True)
def interpretation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    method: Literal["saliency", "input_x_gradient", "integrated_gradients"] = "saliency",
    steps: int = 50,
    step_size: float | None = None,
    share: float = 0.05,
    beta: float = 10.0,
    path_points: int = 8,
    random_start: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """Move the map off its top pixels while the predicted label stays (Ghorbani, Abid, Zou 2017, arXiv:1710.10547).

    This is the top-k attack on the map of y's logit. Among the iterates that the model predicts as it predicts x, correctly or
    not, each sample gets the one whose map has the smallest share on the clean map's top pixels, or x if none has a smaller
    share. share: of the pixels that count as top. step_size: in pixel values; 2.5 eps / steps by default. beta: ReLU has no
    second derivative, so the gradient steps use softplus(beta) instead, wherever relu is called outside TorchScript
    (Dombrowski et al. 2019, arXiv:1906.07983); the iterates are compared on the model itself. path_points: number of
    gradients on the line from black, for integrated_gradients. Raises InputError for wrong options, and for a model
    without gradients.
    """
    if step_size is not None and not step_size > 0:
        raise InputError(f"interpretation(step_size={step_size}): give more than 0, or none for 2.5 * eps / steps")
    if steps < 1 or path_points < 1:
        raise InputError(f"interpretation(steps={steps}, path_points={path_points}): give 1 or more of each")
    if not 0 < share < 1:
        raise InputError(f"interpretation(share={share}): give the share of the pixels that are top, such as 0.05")
    if not beta > 0:
        raise InputError(f"interpretation(beta={beta}): give more than 0, such as 10; larger is closer to ReLU")
    step_size = threat.default_step(steps) if step_size is None else step_size
    maps = Maps(model, method, path_points)
    size = max(1, len(x) // len(maps.at))  # samples per batch: all their path points together are at most len(x) images
    results = [
        _search(maps, x[rows], y[rows], threat, steps, step_size, share, beta, random_start, take(generator, rows))
        for rows in torch.arange(len(x), device=x.device).split(size)
    ]
    return torch.cat(results)


def _search(
    maps: "Maps",
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    steps: int,
    step_size: float,
    share: float,
    beta: float,
    random_start: bool,
    generator: Generator | None,
) -> Tensor:
    """Run the attack once and return the best iterate of each sample, as measured on the model itself."""

    def softened(x_adv: Tensor) -> Tensor:
        with SoftplusForRelu(beta):
            return maps(x_adv, y)

    with torch.no_grad():
        own = predict_labels(maps.model(x))
    clean = maps(x, y).detach().flatten(1)
    top = clean.topk(max(1, round(share * clean.shape[1])), dim=1).indices
    best, least = x.clone(), share_on(clean, top) * (1 - ROUNDING)
    x_adv = threat.random_start(x, generator) if random_start else x
    for _ in range(steps):
        _, _, grad = logits_and_gradient(softened, x_adv, share_on, top)
        x_adv = threat.project(x_adv - step_size * threat.steepest(grad), x)
        rows = _is_kept(maps.model, x_adv, own).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        shares = share_on(maps(x_adv[rows], y[rows]).detach(), top[rows])
        better = shares < least[rows]
        best[rows[better]], least[rows[better]] = x_adv[rows[better]], shares[better]
    return best


@torch.no_grad()
def _is_kept(model: nn.Module, x_adv: Tensor, own: Tensor) -> Tensor:
    """Whether the predicted class is still `own`, by a margin larger than rounding in another batch size: N, bool."""
    logits, label = model(x_adv), own.clamp_min(0)
    return (own == label) & (margin(logits, label) < -ATTACK_TIE * tie_scale(logits, label))


def share_on(maps: Tensor, top: Tensor) -> Tensor:
    """Return the share of each map (N,H,W or N,H*W, not negative) on its pixels `top` (N,k, indices into H*W): N, 0 to 1."""
    maps = maps.flatten(1)
    return maps.gather(1, top).sum(1) / maps.sum(1).clamp_min(1e-30)


class Maps:
    """Attribution maps of y's logit: (x, y) -> N,H,W, differentiable with respect to x if x requires a gradient.

    Saliency sums absolute gradients over the channels; the other methods sum signed contributions over the channels and then
    take the absolute value.
    """

    def __init__(self, model: nn.Module, method: str, points: int) -> None:
        """points: of integrated_gradients, on the line from black (Gauss-Legendre, as in `robustcls.explain`)."""
        self.model, self.method = model, method
        if method == "integrated_gradients":
            at, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
            self.at, self.weights = (at + 1) / 2, weights / 2
        else:
            self.at = self.weights = np.ones(1)

    @torch.enable_grad()
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        second_order = x.requires_grad
        x = x if second_order else x.detach().requires_grad_()
        at, weights = (x.new_tensor(values).view(-1, 1, 1, 1, 1) for values in (self.at, self.weights))
        line = (at * x).flatten(0, 1)
        logits = self.model(line).gather(1, y.repeat(len(at))[:, None])
        grads = None
        if logits.requires_grad:
            grads = torch.autograd.grad(logits.sum(), line, create_graph=second_order, allow_unused=True)[0]
        if grads is None:
            raise InputError(
                "interpretation finds no gradient of the logits by the image: is the model differentiable?"
            )
        gradient = (weights * finite(grads).view(len(at), *x.shape)).sum(0)
        return gradient.abs().sum(1) if self.method == "saliency" else (gradient * x).sum(1).abs()


class SoftplusForRelu(TorchFunctionMode):
    """Inside this context, every relu, as a module or function, in place or not, computes softplus(beta) instead."""

    RELU = (F.relu, torch.relu, Tensor.relu)
    IN_PLACE = (torch.relu_, Tensor.relu_)  # F.relu_ is torch.relu_

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in self.IN_PLACE:
            kwargs = {**kwargs, "inplace": True}
        elif function not in self.RELU:
            return function(*args, **kwargs)
        return self._softplus(*args, **kwargs)

    def _softplus(self, input: Tensor, inplace: bool = False) -> Tensor:
        # In place, compute softplus on a copy, because its backward pass needs the original input.
        return input.copy_(F.softplus(input.clone(), self.beta)) if inplace else F.softplus(input, self.beta)
