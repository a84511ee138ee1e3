"""Attacks of foolbox (Rauber et al. 2017, arXiv:1707.04131): minimum-norm, decision-based, and image transformations.

Whatever foolbox tries goes through one criterion, which keeps for each sample the nearest adversarial example in the
threat model's norm. That is the result, at whatever distance; where there is none it is the clean image.

foolbox draws its random numbers for a batch as a whole. Here each sample draws its own, or all samples, of whatever batch,
share the same. Where noise gives no start to an attack by labels, the images `others` are tried, which an evaluation draws
from all of its samples.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from robustcls.attacks._active import per_sample
from robustcls.core.draws import Draws, SampleGenerator, take
from robustcls.core.errors import InputError
from robustcls.core.gradients import finite, frozen
from robustcls.core.losses import ATTACK_TIE, margin, misclassified, tie_scale
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

__all__ = [
    "blur",
    "boundary",
    "contrast",
    "cw",
    "ddn",
    "deepfool",
    "ead",
    "fmn",
    "hopskipjump",
    "salt_and_pepper",
    "spatial",
]

# Images tried as a start of the decision-based attacks: so many for each sample, of which the nearest is taken, and more
# for those without any, up to so many; then other images.
FIRST, STARTS = 30, 200


@traits(minimum_norm=True)
def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Fast minimum-norm attack: a ball that shrinks and grows around the boundary (Pintor et al. 2021, arXiv:2102.12827).

    others: as in boundary; for images from which it finds nothing.
    """
    _check_norm("fmn", threat, "linf", "l2", "l1")
    _check_positive("fmn", steps=steps)
    from foolbox.attacks import L1FMNAttack, L2FMNAttack, LInfFMNAttack

    class ProjectingL2(L2FMNAttack):  # foolbox 3.3.4 divides the norm by itself, and so never projects
        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            delta = x.raw - x0.raw
            size = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            return x0 + type(x)(delta * per_sample((epsilon.raw / size).clamp_max(1)))

    kind: Any = {"linf": LInfFMNAttack, "l2": ProjectingL2, "l1": L1FMNAttack}[threat.norm]

    class Overshooting(kind):  # or it stops short of the boundary wherever the box cuts its steps
        def project(self, x: Any, x0: Any, epsilon: Any) -> Any:
            return super().project(x, x0, 1.05 * epsilon)

    attack = Overshooting(steps=steps)
    x_adv = _search(attack, model, x, y, threat, generator)
    left = (x_adv == x).flatten(1).all(1)  # from the image itself a sparse step may run against the box and stay there
    others = x if others is None else others
    x_adv[left] = _search(attack, model, x[left], y[left], threat, take(generator, left), others=others)
    return x_adv


@traits(minimum_norm=True)
def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    init_epsilon: float = 1.0,
    gamma: float = 0.05,
    generator: Generator | None = None,
) -> Tensor:
    """Decoupled direction and norm (Rony et al. 2018, arXiv:1811.09600).

    init_epsilon: the first radius. gamma: the share by which it shrinks or grows at every step.
    """
    _check_norm("ddn", threat, "l2")
    _check_positive("ddn", steps=steps, init_epsilon=init_epsilon, gamma=gamma)
    from foolbox.attacks import DDNAttack

    return _search(DDNAttack(init_epsilon=init_epsilon, steps=steps, gamma=gamma), model, x, y, threat, generator)


@traits(minimum_norm=True)
def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    generator: Generator | None = None,
) -> Tensor:
    """Steps to the nearest linearised boundary (Moosavi-Dezfooli et al. 2015, arXiv:1511.04599).

    candidates: so many of the likeliest classes are considered. overshoot: how far beyond the boundary, as a share.
    """
    _check_norm("deepfool", threat, "linf", "l2")
    _check_positive("deepfool", steps=steps)
    if candidates < 2:
        raise InputError(f"deepfool(candidates={candidates}): give 2 or more, for the likeliest class is the true one")
    from foolbox.attacks import L2DeepFoolAttack, LinfDeepFoolAttack

    kind = {"linf": LinfDeepFoolAttack, "l2": L2DeepFoolAttack}[threat.norm]
    attack = kind(steps=steps, candidates=candidates, overshoot=overshoot)
    return _search(attack, model, x, y, threat, generator)


@traits(minimum_norm=True)
def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    confidence: float = 0.0,
    initial_const: float = 1e-3,
    binary_search_steps: int = 9,
    step_size: float = 0.05,
    generator: Generator | None = None,
) -> Tensor:
    """Squared distance plus a constant times the margin, by Adam (Carlini and Wagner 2016, arXiv:1608.04644).

    confidence: the margin that an example must have. The search for the constant begins at initial_const.
    """
    _check_norm("cw", threat, "l2")
    _check_positive(
        "cw", steps=steps, initial_const=initial_const, binary_search_steps=binary_search_steps, step_size=step_size
    )
    _check_confidence("cw", confidence)
    from foolbox.attacks import L2CarliniWagnerAttack

    attack = L2CarliniWagnerAttack(
        binary_search_steps=binary_search_steps, steps=steps, stepsize=step_size, confidence=confidence,
        initial_const=initial_const, abort_early=False,  # it would look at the sum of the batch's losses; so in ead
    )  # fmt: skip
    return _search(attack, model, x, y, threat, generator, judges_all=True)


@traits(minimum_norm=True)
def ead(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    confidence: float = 0.0,
    initial_const: float = 1e-3,
    binary_search_steps: int = 9,
    step_size: float = 0.01,
    regularization: float = 0.01,
    generator: Generator | None = None,
) -> Tensor:
    """The elastic-net attack: sparse by soft thresholds (Chen et al. 2017, arXiv:1709.04114).

    regularization: the threshold. confidence, initial_const: as in cw.
    """
    _check_norm("ead", threat, "l1")
    _check_positive(
        "ead", steps=steps, initial_const=initial_const, binary_search_steps=binary_search_steps, step_size=step_size,
        regularization=regularization,
    )  # fmt: skip
    _check_confidence("ead", confidence)
    from foolbox.attacks import EADAttack

    attack = EADAttack(
        binary_search_steps=binary_search_steps, steps=steps, initial_stepsize=step_size, confidence=confidence,
        initial_const=initial_const, regularization=regularization, decision_rule="L1", abort_early=False,
    )  # fmt: skip
    return _search(attack, model, x, y, threat, generator, judges_all=True)


@traits(gradients=False, minimum_norm=True)
def boundary(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 5000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """A random walk along the boundary towards the image, by labels alone (Brendel et al. 2017, arXiv:1712.04248).

    spherical_step, source_step: the first step around the image and towards it, as shares of the distance. others:
    M,C,H,W, images to begin from where noise is no adversarial example; x unless given. The clean image is what a sample
    without any start comes back as.
    """
    _check_norm("boundary", threat, "l2")
    _check_positive("boundary", steps=steps, spherical_step=spherical_step, source_step=source_step)
    from foolbox.attacks import BoundaryAttack

    attack = BoundaryAttack(steps=steps, spherical_step=spherical_step, source_step=source_step)
    return _search(attack, model, x, y, threat, generator, others=x if others is None else others)


@traits(gradients=False, minimum_norm=True)
def hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 32,
    initial_evaluations: int = 100,
    max_evaluations: int = 10000,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Gradients at the boundary estimated from labels alone (Chen et al. 2019, arXiv:1904.02144).

    initial_evaluations: queries for the first estimate; their number grows with the root of the step, up to
    max_evaluations. others: as in boundary.
    """
    _check_norm("hopskipjump", threat, "linf", "l2")
    _check_positive(
        "hopskipjump", steps=steps, initial_evaluations=initial_evaluations, max_evaluations=max_evaluations
    )
    from foolbox.attacks import HopSkipJumpAttack

    class OneByOne(HopSkipJumpAttack):
        """foolbox 3.3.4 holds the noise of all queries at once, and divides by one length for the whole batch."""

        def approximate_gradients(self, is_adversarial: Callable, x_advs: Any, steps: int, delta: Any) -> Any:
            x, radius = x_advs.raw, per_sample(delta.raw)
            votes, voted, drawn = torch.zeros_like(radius), torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(steps):
                noise = draw(x)
                moved = (x + radius * noise / _length(noise)).clamp(0, 1)
                direction = (moved - x) / (radius + 1e-8)
                vote = per_sample(is_adversarial(type(x_advs)(moved)).raw) * 2.0 - 1
                votes, voted, drawn = votes + vote, voted + vote * direction, drawn + direction
            mean = votes / steps
            grad = voted - torch.where(mean.abs() == 1, 0.0, mean) * drawn
            return type(x_advs)(grad / _length(grad))

    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "linf": lambda x: 2 * torch.rand_like(x) - 1,
        "l2": torch.randn_like,
    }
    draw, constraint = draws[threat.norm], {"linf": "linf", "l2": "l2"}
    attack = OneByOne(
        steps=steps, initial_gradient_eval_steps=initial_evaluations, max_gradient_eval_steps=max_evaluations,
        constraint=constraint[threat.norm],  # type: ignore[arg-type]
    )  # fmt: skip
    return _search(attack, model, x, y, threat, generator, others=x if others is None else others)


@traits(gradients=False, unrestricted=True)
def spatial(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    max_rotation: float = 30.0,
    max_translation: float = 3.0,
    rotations: int = 5,
    translations: int = 5,
    draws: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Rotations and translations, from a grid or at random (Engstrom et al. 2017, arXiv:1712.02779).

    max_rotation: in degrees; max_translation: in pixels, both either way. rotations, translations: how many the grid
    has, the latter along each axis. draws: so many random ones instead of the grid.
    """
    threat.check_whole_box("spatial")
    _check_positive("spatial", rotations=rotations, translations=translations, draws=1 if draws is None else draws)
    from foolbox.attacks import SpatialAttack

    attack = SpatialAttack(
        max_translation=max_translation, max_rotation=max_rotation, num_translations=translations,
        num_rotations=rotations, grid_search=draws is None, random_steps=draws or 0,
    )  # fmt: skip
    return _search(attack, model, x, y, threat, generator, tries_all=True)


@traits(gradients=False, minimum_norm=True)
def salt_and_pepper(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 1000,
    across_channels: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """Ever more black and white pixels, then fewer again (foolbox, Rauber et al. 2017, arXiv:1707.04131).

    across_channels: a pixel changes in all channels or in none.
    """
    _check_positive("salt_and_pepper", steps=steps)
    from foolbox.attacks import SaltAndPepperNoiseAttack

    attack = SaltAndPepperNoiseAttack(steps=steps, across_channels=across_channels)
    return _search(attack, model, x, y, threat, generator)


@traits(gradients=False, minimum_norm=True)
def blur(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    max_sigma: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Gaussian blur of growing width (foolbox, Rauber et al. 2017, arXiv:1707.04131).

    max_sigma: the last width in pixels; the image's longer side unless given. The filter runs on the CPU.
    """
    _check_positive("blur", steps=steps, max_sigma=1.0 if max_sigma is None else max_sigma)
    from foolbox.attacks import GaussianBlurAttack

    attack = GaussianBlurAttack(steps=steps, max_sigma=max_sigma)
    return _search(attack, model, x, y, threat, generator, tries_all=True)


@traits(gradients=False, minimum_norm=True)
def contrast(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    target: float = 0.5,
    generator: Generator | None = None,
) -> Tensor:
    """Less and less contrast, down to a grey of value `target` (foolbox, Rauber et al. 2017, arXiv:1707.04131)."""
    _check_positive("contrast", steps=steps)
    if not 0 <= target <= 1:
        raise InputError(f"contrast(target={target}): give a grey value from 0 to 1")
    from foolbox.attacks import LinearSearchContrastReductionAttack

    return _search(LinearSearchContrastReductionAttack(steps=steps, target=target), model, x, y, threat, generator)


def _search(
    attack: Any,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    generator: Generator | None,
    *,
    others: Tensor | None = None,
    judges_all: bool = False,
    tries_all: bool = False,
) -> Tensor:
    """others: M,C,H,W, for an attack that needs a start.

    judges_all: the attack shows the criterion all that it tries, and gives a black image where it finds nothing.
    tries_all: so does this one, and it would end with the last of the batch to be fooled: it is not told.
    """
    import eagerpy
    from foolbox.models import PyTorchModel

    result = x.clone()
    if len(x) == 0:
        return result
    with _seeded(generator, x.device), _quiet(), frozen(model), torch.enable_grad():
        with torch.no_grad():
            rows = (~misclassified(model(x), y)).nonzero().squeeze(1)
        if len(rows) == 0:
            return result
        x, y, generator = x[rows], y[rows], take(generator, rows)
        options: dict[str, Any] = {}
        found = torch.ones_like(y, dtype=torch.bool)
        if others is not None:
            start, found = _find_starts(_Raised(model, y), x, y, threat, generator, others)
            if not found.any():
                return result
            # Twins of the first that has one take the place of those without: in a smaller batch logits round otherwise.
            twins = torch.where(found, torch.arange(len(y), device=y.device), found.nonzero()[0])
            x, y, options["starting_points"] = x[twins], y[twins], eagerpy.astensor(start[twins])
        seen = _nearest_seen(x, y, threat, tells=not tries_all)
        raised = _Raised(model, y).eval()
        peer = PyTorchModel(raised, bounds=(0, 1), device=x.device)
        with _EachDraws(x, generator) if isinstance(generator, SampleGenerator) else nullcontext():
            if judges_all or tries_all:
                attack.run(peer, x, seen, **options)
            else:
                attack(peer, x, seen, epsilons=None, **options)
        result[rows[found]] = seen.x_adv[found]
    return result


class _IntoBox(torch.autograd.Function):
    """Clips images to the box, beyond which a model may mean nothing; attacks that step over it keep their gradient.

    Entries of the gradient that are not finite become 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return finite(grads[0])


class _EachDraws(TorchFunctionMode):
    """Inside, torch.rand and torch.randn of N images draw for each of x (N,C,H,W) from its own stream."""

    def __init__(self, x: Tensor, generator: SampleGenerator) -> None:
        super().__init__()
        draws = Draws(x, generator)
        self.n, self.draw = len(x), {torch.rand: draws.uniform, torch.randn: draws.normal}
        self.like = {torch.rand_like: draws.uniform, torch.randn_like: draws.normal}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in self.like:
            shape, draw = args[0].shape, self.like[function]
        elif function in self.draw:
            shape, draw = args[0] if isinstance(args[0], Sequence) else args, self.draw[function]
        else:
            return function(*args, **(kwargs or {}))
        if len(shape) == 4 and shape[0] == self.n:
            return draw(*shape[1:])
        return function(*args, **(kwargs or {}))


class _Raised(nn.Module):
    """The model with the true class's logit raised by twice what a clear error takes.

    An attack that converges on the boundary is then past it. y: N, for every batch.
    """

    def __init__(self, model: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.model, self.y = model, y

    def forward(self, x: Tensor) -> Tensor:
        return self.raised(self.model(_IntoBox.apply(x)))

    def raised(self, logits: Tensor) -> Tensor:
        lead = 2 * ATTACK_TIE * tie_scale(logits.detach(), self.y)[:, None]
        return logits.scatter_add(1, self.y[:, None], lead)


def _nearest_seen(x: Tensor, y: Tensor, threat: ThreatModel, *, tells: bool = True) -> Any:
    """A criterion of foolbox, on the raised logits of `_Raised`, that keeps the nearest adversarial example it is shown.

    Adversarial means clearly so: what an evaluation would call a tie is none. Without any it keeps the clean image.
    tells: the attack which are; else that none is.
    """
    import eagerpy
    from foolbox.criteria import Misclassification

    class NearestSeen(Misclassification):
        def __init__(self) -> None:
            super().__init__(y)
            self.x_adv, self.distance = x, torch.full_like(x[:, 0, 0, 0], torch.inf)

        def __call__(self, perturbed: Any, outputs: Any) -> Any:
            fooled = self.see(perturbed.raw, outputs.raw)
            return eagerpy.astensor(fooled if tells else torch.zeros_like(fooled))

        @torch.no_grad()
        def see(self, tried: Tensor, logits: Tensor) -> Tensor:
            tried = tried.detach().clamp(0, 1)
            distance = threat.distance(tried, x)
            fooled = (margin(logits, y) > -ATTACK_TIE * tie_scale(logits, y)) & distance.isfinite()
            nearer = fooled & (distance < self.distance)
            self.distance = torch.where(nearer, distance, self.distance)
            self.x_adv = torch.where(per_sample(nearer), tried, self.x_adv)
            return fooled

    return NearestSeen()


@torch.no_grad()
def _find_starts(
    model: _Raised, x: Tensor, y: Tensor, threat: ThreatModel, generator: Generator | None, others: Tensor
) -> tuple[Tensor, Tensor]:
    """An adversarial image for each sample, N,C,H,W, and which samples have one, N.

    Tried are flat colours and noise, for want of them the other images, then blends of the image with the nearest.
    """
    seen = _nearest_seen(x, y, threat)
    for number in range(STARTS):
        tried, rows = x.clone(), seen.distance.isinf()  # no image is an example of itself
        if number >= FIRST and not rows.any():
            break
        if number < FIRST:
            rows = torch.ones_like(rows)
        tried[rows] = _noise(number, x[rows], take(generator, rows))
        seen.see(tried, model(tried))
    lacks = seen.distance.isinf()
    if lacks.any():
        nearest = _nearest_of(others, model.model, x[lacks], y[lacks], threat)
        seen.x_adv[lacks], seen.distance[lacks] = nearest.x_adv, nearest.distance
    far = seen.x_adv
    for step in range(1, 20):
        blend = x + step / 20 * (far - x)
        seen.see(blend, model(blend))
    return seen.x_adv, seen.distance.isfinite()


def _nearest_of(others: Tensor, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Any:
    """The nearest of these images (M,C,H,W) that the model does not give y (N), for each x: as `_nearest_seen` keeps it."""
    seen, raised = _nearest_seen(x, y, threat), _Raised(model, y).raised
    for part in others.split(len(x)):  # what memory holds
        part = part.to(x)
        for image, logits in zip(part, model(part), strict=True):
            seen.see(image.expand_as(x), raised(logits.expand(len(x), -1)))
    return seen


def _noise(number: int, x: Tensor, generator: Generator | None) -> Tensor:
    """Images like x: of one colour, of noise, and of noise in black and white, in turn."""
    draws = Draws(x, generator)
    if number % 3 == 0:
        return draws.uniform(x.shape[1], 1, 1).expand_as(x)
    return draws.uniform(*x.shape[1:]) if number % 3 == 1 else draws.uniform(*x.shape[1:]).round()


@contextmanager
def _seeded(generator: Generator | None, device: torch.device) -> Iterator[None]:
    """The global generators, from which foolbox draws, follow `generator`; afterwards they are as they were."""
    cuda = [device] if device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(cuda):
        at = None if generator is None else generator.device
        if isinstance(generator, SampleGenerator):
            seed = generator.common % 2**31
        else:
            seed = int(torch.randint(2**31, (), generator=generator, device=at))
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without foolbox's warnings, and without its log calls setting up the root logger for good."""
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(silent)


def _length(delta: Tensor) -> Tensor:
    return per_sample(delta.flatten(1).norm(dim=1).clamp_min(1e-12))


def _check_norm(name: str, threat: ThreatModel, *norms: str) -> None:
    if threat.norm not in norms:
        raise InputError(
            f"{name} measures {' or '.join(norms)}, not {threat.norm}: "
            f"judge it with `norm={norms[0]}`, or choose another attack"
        )


def _check_positive(name: str, **values: float) -> None:
    for option, value in values.items():
        if value <= 0:
            raise InputError(f"{name}({option}={value}): give more than 0")


def _check_confidence(name: str, confidence: float) -> None:
    if confidence < 0:
        raise InputError(f"{name}(confidence={confidence}): give 0 or more, or examples would not be misclassified")
