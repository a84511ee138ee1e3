"""The measures of attribution maps, on the samples of an evaluation."""

from collections.abc import Callable, Sequence

from torch import nn

from robustcls.attribution.measures.trust import make_maps, measure_all, select_samples
from robustcls.results.records import Evaluation, Explanations


def explain_judged(
    model: nn.Module,
    evaluation: Evaluation,
    methods: Sequence[str],
    count: int,
    seed: int,
    *,
    progress: bool = False,
    on_method: Callable[[str], None] = lambda method: None,
) -> Explanations:
    """The measures on at most `count` correctly classified samples that the attacks changed, evenly spaced."""
    examples = evaluation.examples
    samples = select_samples(model, examples.x, examples.y, examples.x_adv).spread(count)
    maps = {
        method: make_maps(model, samples.x, samples.y, samples.x_adv, method, seed=seed, progress=progress)
        for method in (methods if len(samples.x) else ())
    }
    attacks = ", ".join(one.name for one in evaluation.attacks)
    return measure_all(
        model, samples, maps, attacks, quality_n=count, seed=seed, progress=progress, on_method=on_method
    )
