"""How an attack changes attribution maps, and whether the maps depend on the model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from robustcls.attribution.measures.trust import FORWARDS, MAPS, make_maps, measure_all, select_samples
from robustcls.core.errors import InputError
from robustcls.core.subset import spaced
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Evaluation, Explanations
from robustcls.runtime.stored import Stored

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace


def measure(
    subject: Subject,
    evaluation: Evaluation,
    *,
    methods: Sequence[str],
    n: int,
    seed: int,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Explanations:
    """Return the measures of the methods' maps, on at most n correctly classified samples that the attacks changed."""
    examples = evaluation.examples
    rows = torch.arange(len(examples.y))
    if isinstance(examples.x_adv, Stored):  # not all at once: those that an attack met
        rows = (examples.correct & (examples.margin > -torch.inf)).nonzero().squeeze(1)
        rows = rows[spaced(examples.y[rows], n)]
    samples = select_samples(subject.model, examples.x[rows], examples.y[rows], examples.x_adv[rows]).spread(n)
    samples.rows = rows[samples.rows]
    maps = {
        method: make_maps(subject.model, samples.x, samples.y, samples.x_adv, method, seed=seed, progress=progress)
        for method in (methods if len(samples.x) else ())
    }
    attacks = ", ".join(one.name for one in evaluation.attacks)
    return measure_all(
        subject.model, samples, maps, attacks, quality_n=n, seed=seed, progress=progress,
        on_method=lambda method: say(f"measuring the maps of {method}"),
    )  # fmt: skip


def available(subject: Subject, evaluation: Evaluation, *, methods: Sequence[str]) -> int:
    """The correctly classified samples: only their maps are compared."""
    if not methods:
        raise InputError("the model supports none of the methods")
    return int(evaluation.examples.correct.sum()) or 1


def seconds(pace: "Pace") -> float:
    return MAPS * sum(pace.maps.values()) + FORWARDS * len(pace.maps) * pace.forward
