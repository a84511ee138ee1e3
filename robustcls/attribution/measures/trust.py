"""Measure whether attribution maps can be trusted: how an attack changes them, and whether they depend on the model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attribution import collapse, explain, nonfinite_remark, nonfinite_rows, note, one_each, origin
from robustcls.attribution._baselines import baseline_of
from robustcls.attribution.measures.checks import (
    check_completeness,
    check_dependence,
    check_finite,
    check_order,
    check_repeatability,
)
from robustcls.attribution.measures.faithfulness import (
    completeness_gap,
    deletion,
    infidelity,
    insertion,
    sensitivity_max,
)
from robustcls.attribution.measures.sanity import benign_noise, other_class, shuffled_weights
from robustcls.attribution.measures.similarity import compare, displaced, gini, shuffled, spearman
from robustcls.core.classifier import check_images, check_logits, device_of, dtype_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import finite, frozen
from robustcls.core.losses import predict_labels
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.results.records import Check, Explanations, Likeness, MethodMeasures, Spread
from robustcls.runtime.predict import classifier_with_warning, predict
from robustcls.runtime.search import make_search_model

RULE = "correctly classified samples that the attack changed; maps of the true class's logit, channels summed"
CONTROLS = 4  # random maps whose insertion and deletion are averaged
STEPS, DRAWS, NOISY = 16, 32, 3  # steps of insertion and deletion, draws of infidelity, draws of sensitivity_max
# Cost per sample and method: maps (clean, adversarial, noise, repeated, another seed, shuffled weights, another class, and
# noisy ones), and forward passes besides these.
MAPS, FORWARDS = 7 + NOISY, 2 * (1 + CONTROLS) * (STEPS + 1) + DRAWS + 1


@dataclass
class Samples:
    """The samples whose maps are measured (CPU): correctly classified ones that the attack changed."""

    rows: Tensor  # positions among the given samples
    x: Tensor
    y: Tensor
    x_adv: Tensor
    flipped: Tensor  # bool, N: the model predicts another label for x_adv
    num_classes: int

    def spread(self, count: int) -> "Samples":
        """Return at most `count` of the samples, spread evenly over the classes."""
        at = spaced(self.y, count)
        return Samples(self.rows[at], self.x[at], self.y[at], self.x_adv[at], self.flipped[at], self.num_classes)

    @property
    def attacked(self) -> bool:
        return not torch.equal(self.x, self.x_adv)


@dataclass
class Maps:
    """A method's maps of the true classes' logits."""

    clean: Tensor
    adversarial: Tensor
    images_per_second: float
    nonfinite: Tensor  # N, bool: one of the two maps had entries that were not finite, which became 0

    def take(self, rows: Tensor) -> "Maps":
        return Maps(self.clean[rows], self.adversarial[rows], self.images_per_second, self.nonfinite[rows])


def explain_metrics(
    model: nn.Module,
    images: Tensor,
    target: int | Tensor | Sequence[int] | None = None,
    method: str = "integrated_gradients",
    *,
    adversarial: Tensor | None = None,
    quality_n: int = 50,
    seed: int = 0,
) -> MethodMeasures:
    """Measure a method's maps of the target classes.

    Samples whose target the model does not predict, or that the attack did not change, are left out of all measures.

    Args:
        model: any module that takes [0, 1] pixels; it is not changed.
        images: float N,C,H,W in [0, 1].
        target: one class for all, or one per image; None uses each image's predicted class.
        method: as for `robustcls.explain`.
        adversarial: adversarial versions of the images. With these, `.likeness` also compares the maps of clean and
            adversarial images, and those of images with noise of the same norm.
        quality_n: largest number of samples for quality and checks.

    Returns:
        A record with `.likeness`, `.quality` and `.checks`.

    Raises:
        InputError: for invalid arguments, and if no sample is left.

    Example:
        >>> measures = robustcls.explain_metrics(model, images, labels, "gradcam", adversarial=x_adv)
        >>> measures.quality["insertion"].median, [check.id for check in measures.checks if check.status == "fail"]
    """
    check_images(images, input_size=input_size_of(model))
    model = classifier_with_warning(model, images)
    if target is None:
        with frozen(model):
            target = predict_labels(predict(model, images, 128)).clamp_min(
                0
            )  # samples without a predicted class are left out below
    labels = one_each(target, images)
    if adversarial is not None and adversarial.shape != images.shape:
        raise InputError(f"adversarial images are {tuple(adversarial.shape)}, the clean ones {tuple(images.shape)}")
    if quality_n < 1:
        raise InputError(f"quality_n {quality_n} is not positive: give 1 or more, 50 is usual")
    x_adv = images if adversarial is None else adversarial
    samples = select_samples(model, images, labels, x_adv, attacked=adversarial is not None)
    if not len(samples.x):
        raise InputError("the model predicts the target of no image that was changed: there is nothing to measure")
    maps = make_maps(model, samples.x, samples.y, samples.x_adv, method, seed=seed)
    return measure(model, samples, method, maps, quality_n=quality_n, seed=seed)


def select_samples(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, batch_size: int = 128, *, attacked: bool = True
) -> Samples:
    """Return the samples that the model classifies correctly and, if there was an attack, that the attack changed."""
    x, y, x_adv = (tensor.detach().cpu() for tensor in (x, y, x_adv))
    with frozen(model):
        clean = predict(model, x, batch_size)
        check_logits(clean, y)
        flipped = predict_labels(predict(model, x_adv, batch_size)) != y
    chosen = predict_labels(clean) == y
    if attacked:
        chosen &= (x_adv != x).flatten(1).any(1)
    rows = chosen.nonzero()[:, 0]
    return Samples(rows, x[rows], y[rows], x_adv[rows], flipped[rows], clean.shape[1])


def make_maps(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, method: str, *, seed: int = 0, progress: bool = False
) -> Maps:
    """Return the maps of clean and adversarial images, with the same superpixels and random draws."""
    started = time.perf_counter()
    made = partial(
        explain, model, target=y, method=method, seed=mix(seed, 0), reference=x, keep_nonfinite=True, progress=progress
    )
    clean = made(x)
    rate = len(x) / (time.perf_counter() - started)
    adversarial = clean if torch.equal(x, x_adv) else made(x_adv)
    return Maps(finite(clean), finite(adversarial), rate, nonfinite_rows(clean) | nonfinite_rows(adversarial))


def quiet_maps(model: nn.Module, images: Tensor, target: Tensor, method: str, **options: Any) -> Tensor:
    """Return the maps of `explain` without its warning: entries that are not finite become 0."""
    return finite(explain(model, images, target, method, keep_nonfinite=True, **options))


def measure_all(
    model: nn.Module,
    samples: Samples,
    maps: Mapping[str, Maps],
    attack: str,
    *,
    quality_n: int = 50,
    seed: int = 0,
    progress: bool = False,
    on_method: Callable[[str], None] = lambda method: None,
) -> Explanations:
    """Return the measures of several methods from their maps of the same samples. attack: its spec, for the record."""
    n = len(samples.x)
    record = Explanations(RULE, attack, n, int(samples.flipped.sum()), min(n, quality_n), seed)
    for method, made in maps.items() if n else ():
        on_method(method)
        record.methods.append(measure(model, samples, method, made, quality_n=quality_n, seed=seed, progress=progress))
    return record


def measure(
    model: nn.Module,
    samples: Samples,
    method: str,
    maps: Maps,
    *,
    quality_n: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> MethodMeasures:
    """Return all measures of a method's maps; quality and checks are measured on at most quality_n samples."""
    described = "; ".join(filter(None, (note(model, samples.x, method), nonfinite_remark(maps.nonfinite))))
    record = MethodMeasures(method, described, round(maps.images_per_second, 3))
    flat = collapse(maps.clean)
    if samples.attacked:
        likeness = compare(flat, collapse(maps.adversarial))
        noise = benign_noise(samples.x, samples.x_adv, mix(seed, 2))
        noisy = quiet_maps(model, noise, samples.y, method, reference=samples.x, seed=mix(seed, 0), progress=progress)
        record.likeness = [
            _likeness("adversarial", "kept", likeness, ~samples.flipped),
            _likeness("adversarial", "flipped", likeness, samples.flipped),
            _likeness("benign_noise", "", compare(flat, collapse(noisy))),
        ]
    record.likeness.append(_likeness("random_map", "", compare(flat, shuffled(flat, mix(seed, 1)))))
    record.checks.append(check_finite(maps.nonfinite))
    few = spaced(samples.y, quality_n)
    _assess(model, samples.spread(quality_n), maps.clean[few], record, seed, progress)
    return record


def gaps_of(model: nn.Module, x: Tensor, y: Tensor, maps: Tensor, method: str) -> Tensor | None:
    """Return the completeness gap of each map, as a share of the logit's change; None if the method is not complete."""
    start = origin(x, method)
    return None if start is None else completeness_gap(model, x, y, maps, start)


def _assess(
    model: nn.Module, samples: Samples, maps: Tensor, record: MethodMeasures, seed: int, progress: bool
) -> None:
    """Fill in quality and checks of the record. maps: of the clean images."""
    x, y, flat = samples.x, samples.y, collapse(maps)

    def again(images: Tensor = x, target: Tensor = y, of: nn.Module = model, stream: int = 0) -> Tensor:
        return quiet_maps(of, images, target, record.method, reference=x, seed=mix(seed, stream), progress=progress)

    gaps = gaps_of(model, x, y, maps, record.method)
    record.checks += [check_completeness(gaps), check_repeatability(maps, again())]
    reseeded = spearman(flat, collapse(again(stream=1)))
    bound = max(0.0, Spread.of(reseeded.tolist()).median or 0.0)
    if any(parameter.is_floating_point() for parameter in model.parameters()):
        other = "of the same model with its weights shuffled"
        untrained = spearman(flat, collapse(again(of=shuffled_weights(model, mix(seed, 3)))))
        record.checks.append(check_dependence("parameter_randomisation", other, untrained, bound))
    else:
        record.checks.append(Check("parameter_randomisation", "not_run", None, None, "the model shows no weights"))
    if samples.num_classes > 1:
        others = other_class(y, samples.num_classes, mix(seed, 4))
        unlike = spearman(flat, collapse(again(target=others)))
        record.checks.append(check_dependence("random_logit", "for a random other class", unlike, bound))

    orders = [displaced(flat, mix(seed, 5, number)) for number in range(CONTROLS)]
    blurred, grey = baseline_of(x, "blur"), baseline_of(x, "mean")
    fast = make_search_model(model, "fp32", x[:2].to(device_of(model), dtype_of(model)))  # for passes without gradients

    def areas(area: Callable[..., Tensor], blank: Tensor) -> tuple[Tensor, Tensor]:
        """Return the area for the maps, and the mean area over their random controls."""
        shown = follow([flat, *orders], f"{area.__name__}, {record.method}", "order", show=progress)
        own, *controls = [area(fast, x, y, order, blank=blank, steps=STEPS) for order in shown]
        return own, torch.stack(controls).mean(0)

    inserted, inserted_random = areas(insertion, blurred)
    deleted, deleted_random = areas(deletion, grey)
    record.checks += [
        check_order("insertion", inserted - inserted_random, "inserted", "rises"),
        check_order("deletion", deleted_random - deleted, "deleted", "falls"),
    ]
    measures = {
        "infidelity": infidelity(fast, x, y, flat, blank=grey, draws=DRAWS, seed=mix(seed, 6)),
        "sensitivity_max": sensitivity_max(
            lambda images: collapse(again(images)), x, flat, draws=NOISY, seed=mix(seed, 7)
        ),
        "gini": gini(flat),
        "insertion": inserted, "insertion_random": inserted_random,
        "deletion": deleted, "deletion_random": deleted_random,
        "reseeded": reseeded,
    }  # fmt: skip
    if gaps is not None:
        measures["completeness_gap"] = gaps
    record.quality = {name: Spread.of(values.tolist()) for name, values in measures.items()}


def _likeness(against: str, label: str, measures: dict[str, Tensor], chosen: Tensor | slice = slice(None)) -> Likeness:
    values = {name: value[chosen].tolist() for name, value in measures.items()}
    return Likeness(against, label, len(values["spearman"]), {name: Spread.of(each) for name, each in values.items()})
