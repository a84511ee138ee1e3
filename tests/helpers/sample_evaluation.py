"""Random evaluations whose counts agree with each other, made from a seed. Needs numpy, but no torch."""

import numpy as np

from robustcls.evaluation.measures.artefact.record import Artefact, Labels, Latency, Maps, Side
from robustcls.evaluation.measures.calibration.record import Bin, Calibration, Reliability
from robustcls.evaluation.measures.corruptions.record import Corruption, Corruptions
from robustcls.evaluation.measures.gallery.record import Example, Gallery, Map
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.evaluation.measures.other_curves.record import NormCurve
from robustcls.results.records import (
    Accuracy,
    Array,
    Attack,
    Check,
    CurvePoint,
    Data,
    Epoch,
    Evaluation,
    Explanations,
    Likeness,
    MethodMeasures,
    Model,
    Provenance,
    Sample,
    Spread,
    Threat,
    Training,
)

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ATTACKS = {  # name: (options, how often it breaks a sample that can be broken)
    "apgd_ce": ({"steps": 100, "restarts": 1}, 0.85),
    "apgd_t": ({"steps": 100, "targets": 9}, 0.93),
    "fab_t": ({"steps": 100, "targets": 9}, 0.7),
    "square": ({"queries": 5000, "p_init": 0.8}, 0.4),
}
EPS = 8 / 255


def sample_evaluation(
    name: str = "vgg16-pgd",
    *,
    seed: int = 0,
    n: int = 400,
    classes: int = 10,
    clean: float = 0.82,
    robust: float = 0.46,
    examples: int = 6,
    size: int = 32,
    smooth: bool = True,
    training: bool = True,
    alone: bool = True,
    checks: bool = True,
    measured: bool = True,
) -> Evaluation:
    """Return an evaluation with about the shares `clean` and `robust`.

    examples: 0 leaves the gallery out. smooth: use images that compress well. checks: False leaves out the self-checks and
    the checks of the attribution maps. measured: False leaves out the curves,
    minimum perturbations, calibration and corruptions.
    """
    rng = np.random.default_rng(seed)
    samples = _draw_samples(rng, n, classes, clean, robust, alone)
    right = sum(sample.clean == sample.label for sample in samples)
    held = sum(sample.clean == sample.label == sample.adversarial for sample in samples)
    names = [NAMES[i] if classes <= 10 else f"class_{i:04d}" for i in range(classes)]
    nearest = _draw_nearest(np.random.default_rng(seed + 100), samples)
    more = np.random.default_rng(seed + 200)
    return Evaluation(
        Model(name, f"{seed:02d}" + "ab" * 31, "vgg16(width=0.25)", 1_204_554, [3, size, size], names),
        Data("cifar10", "test", n, "cd" * 32, 10_000, "the first n of a permutation by seed 0", ""),
        Threat("linf", EPS, "8/255"),
        Accuracy.of(right, n),
        Accuracy.of(held, n, "upper bound: standard"),
        _sum_attacks(samples, alone),
        _make_checks() if checks else [],
        samples,
        Provenance(
            f"/home/alice/venv/bin/robustcls attack --model /home/alice/runs/{name}/ckpt.pt --n {n}",
            {
                "model": f"/home/alice/runs/{name}/ckpt.pt",
                "data_dir": "C:\\Users\\Bob Smith\\data sets",
                "n": n,
                "eps": EPS,
            },
            seed,
            {"python": "3.11.7", "torch": "2.9.1", "robustcls": "0.1.0"},
            "NVIDIA H100",
            "1892c62",
            "2026-11-24T06:10:00+00:00",
            184.25,
            "bf16 search, fp32 verdict",
        ),
        _make_gallery(rng, samples, classes, examples, size, smooth) if examples else None,
        _make_training(clean, robust) if training else None,
        explanations=_make_explanations(np.random.default_rng(seed), samples) if checks else None,
        curve=_make_curve(nearest, RADII, EPS) if measured else None,
        other_curves=[_make_norm_curve(norm, nearest) for norm in OTHERS] if measured else None,
        minimum=[_make_minimum(norm, nearest) for norm in ("linf", *OTHERS)] if measured else None,
        calibration=_make_calibration(more, samples) if measured else None,
        corruptions=_make_corruptions(more, samples) if measured else None,
        artefact=_make_artefact(right, held, n) if measured else None,
        profile="standard" if measured else "quick",
    )


def _draw_samples(
    rng: np.random.Generator, n: int, classes: int, clean: float, robust: float, alone: bool
) -> list[Sample]:
    samples = []
    labels = np.random.default_rng(7).integers(classes, size=n)  # same labels for every model
    for index in range(n):
        label = int(labels[index])
        wrong = (label + 1 + int(rng.integers(min(3, classes - 1)))) % classes
        if rng.random() > clean:
            samples.append(Sample(index, label, wrong, wrong, None, None, [] if alone else None))
            continue
        ease = (robust / clean) * (1.15 - 0.3 * label / max(1, classes - 1))
        fooled = [] if rng.random() < ease else [key for key, (_, share) in ATTACKS.items() if rng.random() < share]
        distance = EPS * float(rng.uniform(0.9, 1)) if fooled else None
        samples.append(
            Sample(
                index, label, label, wrong if fooled else label, fooled[0] if fooled else None, distance,
                fooled if alone else None,
            )
        )  # fmt: skip
    return samples


def _sum_attacks(samples: list[Sample], alone: bool) -> list[Attack]:
    left = sum(sample.clean == sample.label for sample in samples)
    attacks = []
    for name, (options, _) in ATTACKS.items():
        broken = [sample.distance for sample in samples if sample.broken_by == name and sample.distance is not None]
        stands = sum(s.clean == s.label and name not in (s.fooled_by or []) for s in samples)
        attacks.append(
            Attack(
                name, dict(options), left, len(broken), (left - len(broken)) / len(samples), 0.25 * left, 100 * left,
                0 if name == "square" else 100 * left,
                Accuracy.of(stands, len(samples)) if alone else None,
                sum(s.fooled_by == [name] for s in samples) if alone else None,
                float(np.median(broken)) if broken else None,
                "RuntimeError: out of memory, batch halved" if name == "fab_t" else "",
            )
        )  # fmt: skip
        left -= len(broken)
    return attacks


RADII = [0.0, *(levels / 255 for levels in (1, 2, 4, 6, 8, 12, 16, 24, 32))]
OTHERS = {"l2": 16.0, "l1": 400.0}  # norm: distance in it per unit of linf distance
SUBSET = 100  # samples of the slow measures
BINS = 15
CORRUPTIONS = {
    "gaussian_noise": 0.09, "shot_noise": 0.07, "impulse_noise": 0.1, "defocus_blur": 0.06, "glass_blur": 0.09,
    "motion_blur": 0.07, "zoom_blur": 0.06, "snow": 0.05, "frost": 0.06, "fog": 0.08, "brightness": 0.02,
    "contrast": 0.14, "elastic_transform": 0.04, "pixelate": 0.03, "jpeg_compression": 0.025,
}  # fmt: skip  # name: accuracy lost per severity level


def spread_out(count: int) -> list[int]:
    """Return at most SUBSET positions out of `count`, evenly spread."""
    kept = min(SUBSET, count)
    return [i * count // kept for i in range(kept)]


def _draw_nearest(rng: np.random.Generator, samples: list[Sample]) -> list[float]:
    """Draw the linf distance of each sample's nearest adversarial example.

    It is 0 for a misclassified sample, at most the recorded distance for a broken one, and beyond EPS for a robust one.
    """
    found = []
    for sample in samples:
        near, far = float(rng.uniform(0.1, 1)), EPS * (1.01 + float(rng.gamma(2.0, 0.6)))
        wrong = sample.clean != sample.label
        found.append(0.0 if wrong else far if sample.distance is None else near * sample.distance)
    return found


def _make_curve(nearest: list[float], radii: list[float], eps: float) -> list[CurvePoint]:
    points = []
    for radius in radii:
        stands = sum(distance > max(radius, 0.0) for distance in nearest)
        grey = radius < 0.5 and eps == EPS and radius > 0
        points.append(
            CurvePoint(
                radius, f"{round(255 * radius)}/255" if grey else f"{radius:.6g}", Accuracy.of(stands, len(nearest))
            )
        )
    return points


def _make_norm_curve(norm: str, nearest: list[float]) -> NormCurve:
    scale = OTHERS[norm]
    some = [scale * nearest[i] for i in spread_out(len(nearest))]
    radii = [scale * EPS * step for step in (0, 0.25, 0.5, 1, 1.5, 2, 3)]
    points = _make_curve(some, radii, scale * EPS)
    points[-2].error = "apgd_t: RuntimeError: out of memory" if norm == "l1" else ""
    return NormCurve(
        norm, ["apgd_ce(steps=20)", "apgd_t(steps=20,targets=3)"], f"{len(some)} spaced evenly over the samples",
        len(some), points,
    )  # fmt: skip


def _make_minimum(norm: str, nearest: list[float]) -> MinimumNorm:
    scale = OTHERS.get(norm, 1.0)
    index = spread_out(len(nearest))
    distance = [scale * nearest[i] if nearest[i] < 3 * EPS else None for i in index]
    ranked = sorted(1e9 if one is None else one for one in distance)
    quartiles = [ranked[-(-quarter * len(ranked) // 4) - 1] for quarter in (1, 2, 3)]
    return MinimumNorm(
        norm, "fab_t(steps=30,targets=3)", f"{len(index)} spaced evenly over the samples", len(index), index, distance,
        distance.count(None), *(None if one == 1e9 else one for one in quartiles),
    )  # fmt: skip


def _make_calibration(rng: np.random.Generator, samples: list[Sample]) -> Calibration:
    parts = []
    for predictions in ([s.clean for s in samples], [s.adversarial for s in samples]):
        right = np.array([label == s.label for label, s in zip(predictions, samples, strict=True)])
        confidence = np.where(right, rng.beta(8, 1.5, len(right)), rng.beta(5, 3, len(right)))
        parts.append(_make_reliability(confidence, right))
    return Calibration(*parts, "the worst image that the attacks found of each sample; clean errors keep their image")


def _make_reliability(confidence: np.ndarray, right: np.ndarray) -> Reliability:
    bins, n = [], len(right)
    for place in range(BINS):
        low, high = place / BINS, (place + 1) / BINS
        inside = (confidence > low) & (confidence <= high)
        known = bool(inside.any())
        bins.append(
            Bin(
                low, high, int(inside.sum()), float(confidence[inside].mean()) if known else None,
                float(right[inside].mean()) if known else None,
            )
        )  # fmt: skip
    ece = sum(one.n / n * abs(one.confidence - one.accuracy) for one in bins if one.n)
    return Reliability(
        n, float(right.mean()), float(confidence.mean()), ece, bins, Spread.of(confidence[right]),
        Spread.of(confidence[~right]),
    )  # fmt: skip


def _make_corruptions(rng: np.random.Generator, samples: list[Sample]) -> Corruptions:
    some = [samples[i] for i in spread_out(len(samples))]
    clean = sum(sample.clean == sample.label for sample in some)
    results = [
        Corruption(name, severity, Accuracy.of(round(clean * max(0.1, 1 - cost * severity * k)), len(some)))
        for name, cost in CORRUPTIONS.items()
        for k in [float(rng.uniform(0.8, 1.2))]
        for severity in range(1, 6)
    ]
    return Corruptions(
        f"{len(some)} spaced evenly over the samples", "made here by the published definitions", len(some),
        Accuracy.of(clean, len(some)), results, float(np.mean([one.accuracy.accuracy for one in results])),
        "frost uses generated textures",
    )  # fmt: skip


def _make_artefact(right: int, held: int, n: int) -> Artefact:
    """Make an artefact with one image fewer of each kind than the original, whose numbers are those of the samples."""
    ours, theirs = (
        {
            "clean": Accuracy.of(right - less, n), "white_box": Accuracy.of(held - less, n),
            "white_box_once": Accuracy.of(held + 1 - less, n),
            "transfer": Accuracy.of(held + 3 - less, n), "square": Accuracy.of(held - less, n),
            "union": Accuracy.of(max(0, held - 1 - less), n), "ece": 0.031, "ece_adversarial": 0.25,
        }
        for less in (1, 0)
    )  # fmt: skip
    return Artefact(
        972_691, 1_206_010, 19_612_928, **ours,
        latency=[Latency(1, 200, 0.94, 1.31, 7.62, 9.05), Latency(8, 200, 5.1, 6.3, 31.0, 40.5)],
        cpu=["avx2", "avx512_vnni"], quantization="int8(calibrate=512)",
        original=Side(4_820_312, 1_204_554, 19_612_928, **theirs), source="vgg16/ckpt.pt", rule="all samples, as drawn",
        agreement=Accuracy.of(n - 3, n), labels=Labels({"two": 2}, {"two": 1}, 0, 0.21, 1, n, {"four": 0}),
        clean_difference=-1 / n, clean_ci95=[-0.011, 0.006], difference=-1 / n, ci95=[-0.013, 0.008],
        seed_noise=2, masked=2, masked_original=1, maps=Maps("saliency", 50, 0.97, 0.61, 0.01),
    )  # fmt: skip


def _make_checks() -> list[Check]:
    return [
        Check("zero_gradients", "pass", 0.0025, 0.05, "0.2% of 400 samples have no input gradient"),
        Check("softmax_output", "pass", 0.0, 0.5, "outputs are not probabilities"),
        Check("random_output", "warn", 3e-5, 1e-4, "two passes differ by 3.0e-05 of the largest logit"),
        Check("transfer", "not_run", None, None, "no second model was given"),
    ]


def _make_gallery(
    rng: np.random.Generator, samples: list[Sample], classes: int, count: int, size: int, smooth: bool
) -> Gallery:
    outcome = {
        sample.index: "clean_error" if sample.clean != sample.label else "broken" if sample.broken_by else "survived"
        for sample in samples
    }
    drawn = [
        sample
        for kind in ("broken", "survived", "clean_error")
        for sample in [s for s in samples if outcome[s.index] == kind][: -(-count // 3)]
    ][:count]
    return Gallery(
        "a third each of broken, survived and clean errors, the first by a permutation of seed 0",
        [_make_example(rng, sample, outcome[sample.index], classes, size, smooth) for sample in drawn],
    )


def _make_example(
    rng: np.random.Generator, sample: Sample, outcome: str, classes: int, size: int, smooth: bool
) -> Example:
    grid = np.linspace(0, 1, size)
    waves = [np.outer(np.sin(a * grid * 6), np.cos(b * grid * 6)) for a, b in rng.uniform(0.5, 2, (3, 2))]
    clean = 0.5 + 0.45 * np.stack(waves)
    if not smooth:
        clean = clean + rng.normal(0, 0.08, clean.shape)
    clean = np.clip(clean, 0, 1)
    delta = EPS * np.sign(np.roll(clean, 3, 1) - 0.5) if smooth else rng.uniform(-EPS, EPS, clean.shape)
    delta = np.clip(clean + delta, 0, 1) - clean
    if outcome == "clean_error":
        delta = 0 * delta
    ranked = [sample.adversarial, *(label for label in range(classes) if label != sample.adversarial)][:3]
    before = [sample.clean, *(label for label in ranked if label != sample.clean)]
    clean_top = [[float(label), share] for label, share in zip(before[:3], (0.88, 0.07, 0.0125), strict=False)]
    top = [[float(label), share] for label, share in zip(ranked, (0.71, 0.2, 0.0425), strict=False)]
    roles = [("clean", sample.label), ("adversarial", sample.label), ("adversarial_class", sample.adversarial)]
    maps = [
        Map("integrated_gradients", role, target, Array.encode(waves[i] * (0.5 + 0.5 * rng.random(waves[i].shape))))
        for i, (role, target) in enumerate(roles)
    ]
    maps += [
        Map("gradcam", role, target, Array.encode(np.abs(waves[i]), "uint8"), "grid 2 × 2")
        for i, (role, target) in enumerate(roles)
    ]
    return Example(
        sample.index, outcome, Array.encode(clean, "uint8", 1 / 255), Array.encode(clean + delta, "uint8", 1 / 255),
        Array.encode(delta), clean_top, top, maps,
    )  # fmt: skip


def _make_training(clean: float, robust: float) -> Training:
    epochs = []
    for epoch in range(1, 21):
        rise = 1 - 0.8 ** (epoch + 1)
        slip = 0.004 * max(0, epoch - 14)
        epochs.append(
            Epoch(
                epoch, 0.1 * (1 - epoch / 20), 2.3 - 1.1 * rise, clean * rise + slip, robust * rise + 2 * slip,
                clean * rise, max(0.0, robust * rise - slip), max(0.0, robust * rise + 0.05), 31.5, 1587.0,
            )
        )  # fmt: skip
    config = {"arch": "vgg16(width=0.25)", "adv": "pgd(steps=10)", "epochs": 20, "lr": 0.1, "out": "/home/alice/runs/x"}
    selection = "robust accuracy on the validation split, pgd(steps=10)"
    return Training(config, epochs, 14, selection, "pgd(steps=10)")


LIKENESS = {"spearman": 0.0, "top_k": -0.1, "top_k_tolerant": 0.05, "ssim": -0.05, "cosine": 0.02}  # beside Spearman
METHODS = {  # spec: (note, Spearman against label kept, label flipped, noise and a random map)
    "integrated_gradients(steps=32)": ("baseline: black; 32 steps", (0.62, 0.41, 0.86, 0.0)),
    "gradcam": ("layer features.24, grid 4 × 4 <img src=x onerror=alert(2)>", (0.85, 0.7, 0.93, 0.01)),
    "guided_gradcam": ("fails the sanity checks of Adebayo et al. 2018; grid 4 × 4", (0.91, 0.89, 0.95, -0.01)),
}


def _make_explanations(rng: np.random.Generator, samples: list[Sample]) -> Explanations:
    right = [sample for sample in samples if sample.clean == sample.label][:64]
    flipped = sum(sample.adversarial != sample.label for sample in right)
    return Explanations(
        "the first 64 that the model gets right, in the order of a permutation by seed 0", "pgd(steps=20)",
        len(right), flipped, min(len(right), 32), 0,
        [_measure_method(rng, method, len(right), flipped) for method in METHODS],
    )  # fmt: skip


def _measure_method(rng: np.random.Generator, method: str, n: int, flipped: int) -> MethodMeasures:
    note, centres = METHODS[method]
    groups = [("adversarial", "kept", n - flipped), ("adversarial", "flipped", flipped)]
    groups += [("benign_noise", "", n), ("random_map", "", n)]
    if method == "gradcam":  # as if every flipped map were zero
        groups[1] = ("adversarial", "flipped", 0)
    likeness = [
        Likeness(against, label, count, _compare(rng, centre, count))
        for (against, label, count), centre in zip(groups, centres, strict=True)
    ]
    if method == "guided_gradcam":  # not defined on every sample
        likeness[3].measures["ssim"] = _spread(rng, 0.0, n - 2)
    quality = {
        "sensitivity_max": _spread(rng, 0.3, min(n, 32)),
        "infidelity": _spread(rng, 0.0042, min(n, 32), 0.001),
        "gini": _spread(rng, 0.6, min(n, 32)),
        "insertion": _spread(rng, 0.5, min(n, 32)),
        "insertion_random": _spread(rng, 0.3, min(n, 32)),
        "deletion": _spread(rng, 0.2, min(n, 32)),
        "deletion_random": _spread(rng, 0.31, min(n, 32)),
    }
    if method.startswith("integrated"):
        quality["completeness_gap"] = _spread(rng, 0.012, min(n, 32), 0.003)
    return MethodMeasures(method, note, 4567.8 / len(method), likeness, quality, _check_method(method))


def _compare(rng: np.random.Generator, centre: float, count: int) -> dict[str, Spread]:
    shifts = {key: max(0.03, centre + shift) if "top" in key else centre + shift for key, shift in LIKENESS.items()}
    return {key: _spread(rng, middle, count, 0.02 if middle < 0.1 else 0.08) for key, middle in shifts.items()}


def _spread(rng: np.random.Generator, centre: float, count: int, width: float = 0.08) -> Spread:
    return Spread.of(np.minimum(0.99, rng.normal(centre, width, count)))


def _check_method(method: str) -> list[Check]:
    if method == "gradcam":  # completeness does not hold for it; random_logit and deletion are missing
        return [
            Check("completeness", "not_run", None, None, "gradcam does not claim to add up"),
            Check("parameter_randomisation", "pass", 0.12, 0.5, "median Spearman with shuffled weights"),
            Check("repeatability", "pass", 0.0, 1e-6, "largest difference of two maps with one seed"),
            Check("insertion", "warn", 0.02, 0.05, "median gain over a random map"),
        ]
    guided = method.startswith("guided")
    status = "fail" if guided else "pass"
    return [
        Check("completeness", "pass", 0.0121, 0.05, "median gap between the sum of a map and the change of the logit"),
        Check(
            "parameter_randomisation", status, 0.83 if guided else 0.04, 0.5, "median Spearman with shuffled weights"
        ),
        Check("random_logit", "pass", 0.31, 0.9, "median Spearman with the map of another class"),
        Check("repeatability", "pass", 0.0, 1e-6, "largest difference of two maps with one seed"),
        Check("insertion", status, -0.01 if guided else 0.2, 0.0, "median gain over a random map"),
        Check("deletion", "pass", 0.11, 0.0, "median gain over a random map"),
    ]
