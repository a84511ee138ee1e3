"""Accuracy of a random model over repeated passes: what one answer of it is worth."""

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

    The images are what the attacks left, found and chosen on other draws, so that no pass is the luckiest of several.
    """
    model = engine.subject.model
    if not averaged_in(model):
        return None
    draws = draws_of(model)
    with single_draw(model):
        clean, robust = (
            _repeat(engine, images, name, passes) for name, images in enumerate((outcome.x, outcome.x_adv))
        )
    return UnderNoise(passes, draws, clean, robust)


def _repeat(engine: Engine, images: Tensor, name: int, passes: int) -> Repeated:
    right = []
    for number in range(passes):
        restart(engine.subject.model, engine.seed, STREAM, name, number)
        right.append((predict_labels(predict(engine.model, images, engine.parts)) == engine.y).tolist())
    return Repeated.of(right)
