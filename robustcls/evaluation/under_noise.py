"""Accuracy of a random model over repeated single passes."""

from collections.abc import Callable

from torch import Tensor, nn

from robustcls.core.losses import predict_labels
from robustcls.core.seeds import mix
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.models.wrappers.averaged import Averaged, averaged_in, draws_of, restart, single_draw
from robustcls.results.robustness import Repeated, UnderNoise
from robustcls.runtime.predict import predict

PASSES = 20
STREAM = mix(*b"under noise")  # identifies the random numbers used here


def average(model: nn.Module, draws: int) -> nn.Module:
    """Return the mean of a random model over draws, for attacks on its expectation; unchanged if it is averaged already."""
    return model if averaged_in(model) else Averaged(model, draws)


def accuracy_under_noise(engine: Engine, outcome: Outcome, passes: int = PASSES) -> UnderNoise | None:
    """Return the accuracy of single passes on clean images and on the attacks' results; None for a model without averaging.

    The attacks found and chose their images on other draws, so accuracy is not biased towards lucky draws. With targeted
    attacks, a sample that is classified correctly on the clean image counts as robust unless a pass predicts the target.
    """
    model = engine.subject.model
    if not averaged_in(model):
        return None
    draws = draws_of(model)
    with single_draw(model):
        clean = _repeat(engine, outcome.x, 0, passes, lambda label: label == engine.y)
        robust = _repeat(engine, outcome.x_adv, 1, passes, lambda label: _is_robust(outcome, label))
    return UnderNoise(passes, draws, clean, robust)


def _is_robust(outcome: Outcome, label: Tensor) -> Tensor:
    return label == outcome.y if outcome.target is None else outcome.correct & (label != outcome.target)


def _repeat(engine: Engine, images: Tensor, name: int, passes: int, right: Callable[[Tensor], Tensor]) -> Repeated:
    """Return which samples are right in each pass. right: maps predicted classes (N) to whether each counts as right."""
    correct = []
    for number in range(passes):
        restart(engine.subject.model, engine.seed, STREAM, name, number)
        correct.append(right(predict_labels(predict(engine.model, images, engine.parts))).tolist())
    return Repeated.of(correct)
