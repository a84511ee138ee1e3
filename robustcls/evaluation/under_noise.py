"""Accuracy of a random model over repeated passes: what one answer of it is worth."""

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
STREAM = mix(*b"under noise")  # names the random numbers


def average(model: nn.Module, draws: int) -> nn.Module:
    """The model as attacks on its expectation take it; one that is averaged already stays as it is."""
    return model if averaged_in(model) else Averaged(model, draws)


def accuracy_under_noise(engine: Engine, outcome: Outcome, passes: int = PASSES) -> UnderNoise | None:
    """Accuracy of single passes on the clean images and on the worst of the attacks; None of a model that is not averaged.

    The images are what the attacks left, found and chosen on other draws, so that no pass is the luckiest of several. Under
    attacks that aim at a class, a sample that is right on the clean image stays so until a pass gives that class.
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
    """right: of predicted classes N, which samples count."""
    found = []
    for number in range(passes):
        restart(engine.subject.model, engine.seed, STREAM, name, number)
        found.append(right(predict_labels(predict(engine.model, images, engine.parts))).tolist())
    return Repeated.of(found)
