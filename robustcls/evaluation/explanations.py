"""Whether attribution maps can be trusted: how an attack moves them, and whether they say anything about the model."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustcls.attribution import collapse, explain, note, origin
from robustcls.attribution.baselines import baseline_of
from robustcls.attribution.measures.faithfulness import (
    completeness_gap,
    deletion,
    infidelity,
    insertion,
    sensitivity_max,
)
from robustcls.attribution.measures.sanity import other_class, shuffled_weights
from robustcls.attribution.measures.similarity import compare, shuffled, spearman
from robustcls.attribution.measures.sparseness import gini
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.records import Check, Explanations, Likeness, MethodMeasures, Spread
from robustcls.core.seeds import mix
from robustcls.core.statistics import Z95
from robustcls.runtime.predict import predict

MARK = 0.01  # a gap in completeness beyond this marks a map
FEW = 30  # samples: with fewer, a map that is no better than a random one may be so by chance
LIKE, ALIKE = 0.5, 0.8  # of the likeness of a map to itself under another seed


@dataclass
class Explained:
    """The samples whose maps are compared (CPU): those that the model gets right and the attack moved."""

    x: Tensor
    y: Tensor
    x_adv: Tensor
    flipped: Tensor  # bool, N: the model gives x_adv another label
    num_classes: int


@dataclass
class Measured:
    """The measures of a method, and the maps that they are of, as `explain` gives them."""

    record: MethodMeasures
    clean: Tensor
    adversarial: Tensor
    gaps: Tensor | None  # in completeness, of the first samples' clean maps


def explain_metrics(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    method: str = "integrated_gradients",
    *,
    adversarial: Tensor | None = None,
    quality_n: int = 50,
    seed: int = 0,
) -> MethodMeasures:
    """What can be measured of a method's maps of the target classes: `.likeness`, `.quality` and `.checks`.

    model: any nn.Module on [0, 1] pixels; it is left exactly as it was. images: float N,C,H,W in [0, 1]; target: N.
    adversarial: images like them; with these, likeness also tells how like the maps of clean and adversarial images are,
    beside noise of the same norm. Samples whose target the model does not predict, or that the attack did not move, are
    left out of all measures. quality_n: samples for quality and checks. Raises InputError.
    """
    check_images(images, target, input_size_of(model))
    if adversarial is not None and adversarial.shape != images.shape:
        raise InputError(f"adversarial images are {tuple(adversarial.shape)}, the clean ones {tuple(images.shape)}")
    samples = comparable(model, images, target, images if adversarial is None else adversarial)
    if not len(samples.x):
        raise InputError("the model predicts the target of no image that was moved: there is nothing to measure")
    return measure(model, samples, method, quality_n=quality_n, seed=seed).record


def comparable(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, batch_size: int = 128) -> Explained:
    """The samples among these whose maps can be compared. x_adv is x: no attack, and all that the model gets right stay."""
    x, y, x_adv = (tensor.detach().cpu() for tensor in (x, y, x_adv))
    with frozen(model):
        clean = predict(model, x, batch_size)
        check_logits(clean, y)
        found = predict(model, x_adv, batch_size).argmax(1)
    kept = clean.argmax(1) == y
    if x_adv is not x and not torch.equal(x, x_adv):
        kept &= (x_adv != x).flatten(1).any(1)
    return Explained(x[kept], y[kept], x_adv[kept], (found != y)[kept], clean.shape[1])


def measure_all(
    model: nn.Module,
    samples: Explained,
    methods: Sequence[str],
    attack: str,
    *,
    quality_n: int = 50,
    seed: int = 0,
    progress: bool = False,
    done: Callable[[str, Measured, float], None] = lambda method, measured, seconds: None,
) -> Explanations:
    """The measures of several methods on the same samples; `done` is called after each method."""
    n = len(samples.x)
    found = Explanations(
        "samples that the model gets right and that the attack moved; maps of the true class's logit, channels summed",
        attack, n, int(samples.flipped.sum()), min(n, quality_n), seed,
    )  # fmt: skip
    for method in methods if n else ():
        started = time.perf_counter()
        measured = measure(model, samples, method, quality_n=quality_n, seed=seed, progress=progress)
        found.methods.append(measured.record)
        done(method, measured, time.perf_counter() - started)
    return found


def measure(
    model: nn.Module, samples: Explained, method: str, *, quality_n: int = 50, seed: int = 0, progress: bool = False
) -> Measured:
    """The maps of the samples and of their adversarial versions by one method, and all measures of them."""

    def maps_of(images: Tensor, stream: int = 0) -> Tensor:
        return explain(model, images, samples.y, method, reference=samples.x, seed=mix(seed, stream), progress=progress)

    started = time.perf_counter()
    clean = maps_of(samples.x)
    rate = len(samples.x) / (time.perf_counter() - started)
    attacked = not torch.equal(samples.x, samples.x_adv)
    adversarial = maps_of(samples.x_adv) if attacked else clean
    record = MethodMeasures(method, note(model, samples.x, method), round(rate, 3))
    flat = collapse(clean)
    if attacked:
        likeness = compare(flat, collapse(adversarial))
        record.likeness = [
            _likeness("adversarial", "kept", likeness, ~samples.flipped),
            _likeness("adversarial", "flipped", likeness, samples.flipped),
            _likeness("benign_noise", "", compare(flat, collapse(maps_of(benign_noise(samples, seed))))),
        ]
    record.likeness.append(_likeness("random_map", "", compare(flat, shuffled(flat, mix(seed, 1)))))
    gaps = _assess(model, samples, method, clean, record, min(len(samples.x), quality_n), seed)
    return Measured(record, clean, adversarial, gaps)


def benign_noise(samples: Explained, seed: int) -> Tensor:
    """The images with the attack's own changes at other places, with other signs: of the same norm, whichever it is.

    Values that leave [0, 1] are clamped, which can only shorten the change.
    """
    generator = torch.Generator().manual_seed(mix(seed, 2))
    delta = (samples.x_adv - samples.x).flatten(1)
    order = torch.rand(delta.shape, generator=generator).argsort(1)
    signs = torch.randint(0, 2, delta.shape, generator=generator) * 2 - 1
    return (samples.x + (delta.gather(1, order) * signs).view(samples.x.shape)).clamp(0, 1)


def _assess(
    model: nn.Module, samples: Explained, method: str, clean: Tensor, record: MethodMeasures, n: int, seed: int
) -> Tensor | None:
    """Fills in quality and checks from the first n samples; gives the gaps in completeness."""
    x, y, maps = samples.x[:n], samples.y[:n], clean[:n]
    flat = collapse(maps)

    def again(images: Tensor = x, target: Tensor = y, of: nn.Module = model, stream: int = 0) -> Tensor:
        return explain(of, images, target, method, reference=x, seed=mix(seed, stream))

    start = origin(x.to(device_of(model)), method)
    gaps = None if start is None else completeness_gap(model, x, y, maps, start.cpu())
    record.checks.append(_check_completeness(gaps))
    repeated = again()
    record.checks.append(_check_repeatability(maps, repeated))
    reseeded = spearman(flat, collapse(again(stream=1)))
    bound = Spread.of(reseeded.tolist()).median or 0.0
    untrained = spearman(flat, collapse(again(of=shuffled_weights(model, mix(seed, 3)))))
    record.checks.append(
        _check_dependence("parameter_randomisation", "of the same model with its weights shuffled", untrained, bound)
    )
    if samples.num_classes > 1:
        others = other_class(y, samples.num_classes, mix(seed, 4))
        unlike = spearman(flat, collapse(again(target=others)))
        record.checks.append(_check_dependence("random_logit", "for a random other class", unlike, bound))

    order = shuffled(flat, mix(seed, 5))
    blurred, grey = baseline_of(x, "blur"), baseline_of(x, "mean")
    put_in, put_in_random = (insertion(model, x, y, one, blank=blurred) for one in (flat, order))
    cut_out, cut_out_random = (deletion(model, x, y, one, blank=grey) for one in (flat, order))
    record.checks += [
        _check_order("insertion", put_in - put_in_random, "inserted", "rises"),
        _check_order("deletion", cut_out_random - cut_out, "deleted", "falls"),
    ]
    measures = {
        "infidelity": infidelity(model, x, y, flat, blank=grey, seed=mix(seed, 6)),
        "sensitivity_max": sensitivity_max(lambda images: collapse(again(images)), x, flat, seed=mix(seed, 7)),
        "gini": gini(flat),
        "insertion": put_in, "insertion_random": put_in_random,
        "deletion": cut_out, "deletion_random": cut_out_random,
        "reseeded": reseeded,
    }  # fmt: skip
    if gaps is not None:
        measures["completeness_gap"] = gaps
    record.quality = {name: Spread.of(values.tolist()) for name, values in measures.items()}
    return gaps


def _likeness(against: str, label: str, measures: dict[str, Tensor], chosen: Tensor | None = None) -> Likeness:
    values = {name: value if chosen is None else value[chosen] for name, value in measures.items()}
    n = len(next(iter(values.values())))
    return Likeness(against, label, n, {name: Spread.of(value.tolist()) for name, value in values.items()})


def _check_completeness(gaps: Tensor | None) -> Check:
    if gaps is None:
        return Check("completeness", "not_run", None, None, "the method's maps do not claim to add up to a change")
    marked = int((~(gaps <= MARK)).sum())
    middle = Spread.of(gaps.tolist()).median
    how = f"{marked} of {len(gaps)} maps miss the change of the logit by more than {MARK:.0%} of it, and are marked"
    return Check("completeness", "warn" if marked else "pass", middle, MARK, how)


def _check_repeatability(maps: Tensor, repeated: Tensor) -> Check:
    size = maps.abs().max().item() or 1.0
    worst = (maps - repeated).abs().max().item() / size
    good = worst <= 1e-5
    how = "the same seed gives the same maps" if good else "the same seed gives other maps: it draws from elsewhere"
    return Check(
        "repeatability", "pass" if good else "fail", worst, 1e-5, f"{how} (largest difference, of the largest)"
    )


def _check_dependence(name: str, other: str, likeness: Tensor, bound: float) -> Check:
    """A map that depends on something is unlike the map in which that was changed; another seed is the yardstick."""
    middle = Spread.of(likeness.abs().tolist()).median
    how = f"median rank correlation with the map {other}; {bound:.2f} with its own under another seed"
    if middle is None:  # a constant map is like nothing
        return Check(
            name, "warn", None, LIKE * bound, f"no map has a rank correlation: one of the two is constant; {how}"
        )
    status = "pass" if middle < LIKE * bound else "warn" if middle < ALIKE * bound else "fail"
    return Check(name, status, middle, LIKE * bound, how)


def _check_order(name: str, gains: Tensor, done: str, moves: str) -> Check:
    """Whether the class's probability moves faster by the map's order than by a random one, over the samples."""
    gains = gains[gains.isfinite()]
    n = len(gains)
    if n < 2:
        return Check(name, "not_run", None, 0.0, "fewer than two samples")
    mean, error = gains.mean().item(), gains.std().item() / math.sqrt(n)
    low = mean - Z95 * error
    how = (
        f"pixels {done} by the map: the probability {moves} earlier than in random order by {mean:+.3f} of the area "
        f"(95% interval from {low:+.3f}, n = {n})"
    )
    status = "pass" if low > 0 else "fail" if n >= FEW or mean <= 0 else "warn"
    return Check(name, status, mean, 0.0, how)
