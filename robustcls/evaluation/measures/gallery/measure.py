"""Examples for the report, with their attribution maps; chosen by a rule, not by hand."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from robustcls.attribution import collapse, explain, nonfinite_rows, note
from robustcls.core.gradients import finite, frozen
from robustcls.core.losses import NO_ANSWER, most_probable, predict_labels
from robustcls.core.subset import in_turn
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.measures.gallery.record import Example, Gallery, Map
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Array, Evaluation
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

OUTCOMES = ("broken", "survived", "clean_error")
MAPS = 3  # maps per example and method: clean image, adversarial image, and the latter for its predicted class
SHARES = (0.5, 0.4, 0.1)


def draw_examples(examples: Examples, count: int, seed: int) -> list[int]:
    """Return the rows of up to `count` samples, one class after another: half broken, 40% survivors, the rest clean errors.

    If there are too few of one outcome, the others fill the places. The order within a class is shuffled by seed.
    """
    chosen: list[int] = []
    queues = {name: _in_turn(examples, name, seed) for name in OUTCOMES}
    for name, share in zip(OUTCOMES, SHARES, strict=True):
        wanted = round(count * share)
        chosen += queues[name][:wanted]
        queues[name] = queues[name][wanted:]
    for name in OUTCOMES:
        room = count - len(chosen)
        chosen += queues[name][: max(0, room)]
    return sorted(chosen[:count])


def measure(
    subject: Subject,
    evaluation: Evaluation,
    *,
    methods: Sequence[str],
    n: int,
    seed: int,
    batch_size: int,
    progress: bool = False,
) -> Gallery:
    """Return images, perturbations, confidences and maps of n examples. The model is not changed."""
    model, every = subject.model, evaluation.examples
    rows = draw_examples(every, n, seed)
    x, x_adv, y = every.x[rows], every.x_adv[rows], every.y[rows]
    with frozen(model):
        clean, attacked = (predict(model, images, batch_size) for images in (x, x_adv))
    examples = [
        Example(
            index=int(every.index[row]),
            outcome=outcome_of(every, row),
            clean=_pixels(x[i]),
            adversarial=_pixels(x_adv[i]),
            perturbation=Array.encode((x_adv[i] - x[i]).numpy()),
            clean_top=_top(clean[i].softmax(0)),
            adversarial_top=_top(attacked[i].softmax(0)),
        )
        for i, row in enumerate(rows)
    ]
    for method in methods if rows else ():
        _add_maps(model, examples, method, x, x_adv, y, predict_labels(attacked), progress)
    rule = (
        f"{len(rows)} of {len(every.y)} samples, drawn at random with seed {seed}, one class after another: half broken, 40% "
        "that survived the attacks, the rest misclassified without attack; if a group is too small, the others fill its places"
    )
    return Gallery(rule, examples)


def seconds(pace: "Pace") -> float:
    return 2 * pace.forward + MAPS * sum(pace.maps.values())


def outcome_of(examples: Examples, row: int) -> str:
    if examples.success[row]:
        return "broken"
    return "survived" if examples.correct[row] else "clean_error"


def _in_turn(examples: Examples, outcome: str, seed: int) -> list[int]:
    rows = np.array([row for row in range(len(examples.y)) if outcome_of(examples, row) == outcome], dtype=int)
    rows = np.random.default_rng(seed).permutation(rows)
    rows = rows[
        np.argsort(examples.y.numpy()[rows], kind="stable")
    ]  # by label, so that classes take turns from the first label on
    return rows[in_turn(examples.y[rows]).numpy()].tolist()


def _add_maps(
    model: nn.Module,
    examples: list[Example],
    method: str,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    found: Tensor,
    progress: bool,
) -> None:
    text = note(model, x, method)
    for role, images, target in (
        ("clean", x, y),
        ("adversarial", x_adv, y),
        ("adversarial_class", x_adv, torch.where(found == NO_ANSWER, y, found)),
    ):
        drawn = explain(model, images, target, method, reference=x, keep_nonfinite=True, progress=progress)
        maps, nonfinite = collapse(finite(drawn)), nonfinite_rows(drawn)
        for i, example in enumerate(examples):
            if role != "adversarial_class" or target[i] != y[i]:
                said = "; ".join(filter(None, (text, "values that are not finite count as 0" if nonfinite[i] else "")))
                example.maps.append(Map(method, role, int(target[i]), Array.encode(maps[i].numpy()), said))


def _pixels(image: Tensor) -> Array:
    return Array.encode((image * 255).round().to(torch.uint8).numpy().astype(np.float32) / 255, "uint8", 1 / 255)


def _top(probabilities: Tensor) -> list[list[float]]:
    """Return class and probability of the most probable classes, in the format of the record."""
    return [[float(label), round(p, 6)] for label, p in most_probable(probabilities)]
