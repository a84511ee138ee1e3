"""Certified accuracy of a subject, as a record of its own or together with the attacks of an evaluation."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from numpy import ndarray
from torch import Tensor, nn

from robustcls.certification.smoothing import ABSTAIN, Smoothing
from robustcls.core import plugins
from robustcls.core.classifier import check_images, input_size_of
from robustcls.core.config import resolve
from robustcls.core.errors import InputError, unknown
from robustcls.core.provenance import commit, versions
from robustcls.core.threat import Norm, ThreatModel
from robustcls.core.wrapped import read_wrapped
from robustcls.data.augment import noise_of
from robustcls.data.images import collect
from robustcls.evaluation.certificate_match import difference, predictions_differ
from robustcls.evaluation.certify_by_bounds import certify_by_bounds, check_precision, radii_of
from robustcls.evaluation.certify_by_smoothing import certify_by_smoothing, or_none
from robustcls.evaluation.certify_config import CertifyConfig
from robustcls.evaluation.curves import parse_grid
from robustcls.evaluation.journal import Journal, kept_in
from robustcls.evaluation.subject import Subject, load_subject, make_subject
from robustcls.models.loading import read_model
from robustcls.models.wrappers.smoothed import Smoothed, check_sigma, smoothed
from robustcls.results.certified import Certified
from robustcls.results.evaluation import say_certified
from robustcls.results.records import Accuracy, Evaluation, Provenance, Sample, Threat
from robustcls.runtime.predict import classifier_of

KIND = "clean accuracy: no attack was run"
NO_PERTURBATION = ThreatModel("l2", 0)
OPTIONS = {"draws": "n", "select_draws": "n0", "alpha": "alpha"}  # options of smoothing, and their names in the paper
DRAWS = tuple(OPTIONS.values())


@dataclass
class Certificates:
    """Certificates of N samples. Tensors are on the CPU."""

    record: Certified  # as an evaluation stores it: `robustcls.evaluate(..., certificates=these)`
    radius: Tensor  # N, float64: within which the label is proven; 0 if the prediction is wrong or nothing is proven
    predicted: Tensor  # N: the certified classifier's prediction, -1 if it abstains
    certified: Tensor  # N, bool: the prediction is correct, and proven within `radius`

    @classmethod
    def of(cls, record: Certified) -> "Certificates":
        predicted = [ABSTAIN if one.predicted is None else one.predicted for one in record.samples]
        radius = torch.tensor([one.radius for one in record.samples], dtype=torch.float64)
        certified = torch.tensor([one.holds(0) for one in record.samples])
        return cls(record, radius, torch.tensor(predicted), certified)

    def accuracy_at(self, radius: float) -> float:
        """Return the share of samples that are correct and proven so within this radius; `.record.at` has the interval."""
        return self.record.at(radius).accuracy

    def __str__(self) -> str:
        abstained = f"; {self.record.abstained} of {len(self.radius)} abstained"
        return f"certified by {say_certified(self.record)}{abstained if self.record.method == 'smoothing' else ''}"


def certify(
    model: nn.Module,
    images: Tensor | ndarray,
    labels: Tensor | ndarray,
    sigma: float | None = None,
    *,
    method: Literal["smoothing", "bounds"] = "smoothing",
    norm: Norm | None = None,
    eps_grid: str | float | Iterable[float | str] | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Certificates:
    """Prove within which radius a classifier's predictions hold against any attack: a lower bound of robust accuracy.

    `smoothing` (Cohen et al. 2019, arXiv:1902.02918) certifies in l2 the class that the model predicts most often under
    Gaussian noise, `robustcls.smoothed(model, sigma=...)`. It never certifies the model itself, so the model's robust accuracy
    under attack is no upper bound of the certified accuracy. The noise is added to pixels in [0, 1], before any normalisation,
    and not clamped. For a model that was not trained with noise, little can be certified.

    `bounds` (CROWN, Zhang et al. 2018, arXiv:1811.00866) certifies the model itself, in linf or l2, if it is a small network
    of plain layers. For a large network nothing can be certified, however robust it is.

    Args:
        model: a module that maps [0, 1] pixels to logits N,K and always gives the same logits for an image, or a result of
            `smoothed`.
        images: float N,C,H,W in [0, 1], a tensor on any device or a NumPy array.
        labels: integers N, counted from 0.
        sigma: smoothing: standard deviation of the noise, the same as in training; leave it out if the model is smoothed.
        method: `smoothing` or `bounds`.
        norm: bounds: `linf` or `l2`. Smoothing always certifies in l2.
        eps_grid: radii, such as `0,1/255,2/255`, or numbers. Bounds try each, and the largest that is proven is the sample's
            radius. For smoothing these are the radii of the curve; they change no certificate.
        batch_size: images per batch, for smoothing draws per batch; affects results only through the rounding of logits.
        seed: of the draws, which depend only on the seed and the sample's position.
        resume: a folder that stores finished parts, so that the same call continues from there after an interruption;
            removed at the end.
        progress: show progress on stderr.
        options: of smoothing: n, draws per image that are counted, 1000: no radius can exceed sigma * Phi^-1(alpha^(1/n)). n0,
            draws that first choose the class to count, 100. alpha, the probability that a certificate is false, for each
            sample separately, 0.001. precision, `fp32`; `bf16` or `fp16` certify the model's copy in that precision, if that
            is what you serve.

    Returns:
        `.radius` float64 N, 0 if the prediction is wrong or nothing is proven; `.predicted` N, -1 if the vote abstains;
        `.certified` bool N; `.accuracy_at(r)`, the share of all samples that are correct and proven within r, at 0 the share
        of `.certified`; `.record`, with curve and intervals, as an evaluation stores it.

    Raises:
        InputError: for a model that is random or, with bounds, has unsupported layers, a sigma of 0, an n too small for any
            certificate, an option of the other method, and other wrong input.

    Example:
        >>> certified = robustcls.certify(model, images, labels, sigma=0.25)
        >>> certified.radius, certified.accuracy_at(0.5), certified.record.at(0.5).ci95
        >>> certified = robustcls.certify(small, images, labels, method="bounds", norm="linf", eps_grid="1/255,2/255")
        >>> certified.accuracy_at(2 / 255)
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model {model!r:.40} is no torch.nn.Module: `robustcls.load` makes one of a file or a name")
    for name in options.keys() - {*DRAWS, "precision"}:
        raise unknown("option", name, [*DRAWS, "precision"])
    x, y = collect(images, labels)
    config = replace(
        resolve(CertifyConfig, {"method": method, "norm": norm}),
        sigma=sigma, seed=seed, batch_size=batch_size, quiet=not progress, precision=options.pop("precision", "fp32"),
    )  # fmt: skip
    grid = [eps_grid] if isinstance(eps_grid, int | float) else eps_grid
    radii = None if grid is None else parse_grid(grid) or None
    with kept_in(resume) as journal:
        if method == "bounds":
            return _by_bounds(model, x, y, config, radii, options, journal)
        return _by_smoothing(model, x, y, config, radii, options, journal)


def _by_smoothing(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: CertifyConfig,
    radii: list[float] | None,
    draws: Mapping[str, Any],
    journal: Journal | None,
) -> Certificates:
    if config.sigma is not None:
        check_sigma(config.sigma)
    sigma = _agreed(model.sigma if isinstance(model, Smoothed) else None, config.sigma)
    smoothing = Smoothing(sigma, **draws)
    if not isinstance(model, Smoothed):
        check_images(x, y, input_size_of(model))
        fitted, _ = classifier_of(model, x, labels=y)
        model = smoothed(fitted, sigma=sigma)
    subject = make_subject(model, x, y, NO_PERTURBATION)
    return Certificates.of(certify_by_smoothing(subject, smoothing, config, journal, radii)[0])


def _by_bounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: CertifyConfig,
    radii: list[float] | None,
    draws: Mapping[str, Any],
    journal: Journal | None,
) -> Certificates:
    check_precision(config)
    for name in draws:
        raise InputError(f"`{name}` is for smoothing, and bounds have no draws: leave it out, or leave out `method`")
    if config.norm is None or not radii:
        raise InputError(
            "bounds are proven in one norm, at some radii: give `norm` and `eps_grid`, such as `norm=linf` and "
            "`eps_grid=1/255,2/255`"
        )
    threat = ThreatModel(config.norm, max(radii))
    radii = radii_of(threat, radii)
    return Certificates.of(certify_by_bounds(make_subject(model, x, y, threat), config, journal, radii)[0])


def smoothed_spec(spec: str, sigma: float | None) -> tuple[str, float, list[str]]:
    """Return the spec of the smoothed classifier, its sigma, and notes on where sigma was taken from.

    spec: of the model, or already of the form `smoothed(MODEL, sigma=...)`. Raises InputError if sigma is missing, or given
    twice with different values.
    """
    wrapper = read_wrapped(spec).wrapper
    if wrapper is not None and wrapper.name == "smoothed":
        return spec, _agreed(plugins.load("wrapper", wrapper).keywords["sigma"], sigma), []
    notes = []
    if sigma is None:
        sigma = noise_of_training(read_model(spec).meta.get("config", {}))
        notes = [f"sigma {sigma}, that of the checkpoint's training"] if sigma else []
    sigma = _agreed(None, sigma)
    return f"smoothed({spec}, sigma={sigma})", sigma, notes


def noise_of_training(config: Mapping[str, Any]) -> float | None:
    """Return the standard deviation of the noise in a checkpoint's training (augmentation or SmoothAdv), or None."""
    objective = plugins.parse("objective", config.get("objective") or "standard")
    if objective.name == "smooth_adv":
        return float(plugins.resolved("objective", objective)["sigma"])
    return noise_of(config.get("augment", "none"))


def certify_spec(spec: str, config: CertifyConfig) -> "Task":
    """Return the subject that `--model` and the options name, ready to be certified. Raises InputError for wrong options."""
    radii = parse_grid(config.eps_grid) if config.eps_grid else None
    if config.method == "bounds":
        return _bounds_task(spec, config, radii)
    spec, sigma, notes = smoothed_spec(spec, config.sigma)
    smoothing = Smoothing(sigma, **{OPTIONS[name]: value for name, value in config.smoothing_options.items()})
    config = replace(config, sigma=sigma, norm="l2")
    config.eps = 0.0  # no attacks are run, but loading a subject needs a radius
    subject = load_subject(spec, config)
    subject.notes = [*notes, *(line for line in subject.notes if not line.startswith("threat "))]
    largest = f"no radius above {smoothing.largest:.3g} can be certified with {smoothing.n:,} draws"
    beyond = ", ".join(f"{radius:g}" for radius in radii or () if radius > smoothing.largest)
    remark = f"{largest}: at {beyond} the curve is 0" if beyond else largest
    prove = partial(certify_by_smoothing, subject, smoothing, config, radii=radii)
    return Task(subject, config, "l2", prove, [remark])


def _bounds_task(spec: str, config: CertifyConfig, radii: Sequence[float] | None) -> "Task":
    check_precision(config)
    if config.norm is not None and radii is None:
        raise InputError(f"norm {config.norm} has no radii here: give `eps_grid`, such as `eps_grid=0,1/255,2/255`")
    config = replace(config)
    config.eps = None if radii is None else max(radii)
    subject = load_subject(spec, config)
    radii = radii_of(subject.threat, radii)
    subject.notes = [line for line in subject.notes if not line.startswith("threat ")]
    large = "bounds of a large network certify little or nothing, however robust it is"
    return Task(subject, config, subject.threat.norm, partial(certify_by_bounds, subject, config, radii=radii), [large])


@dataclass
class Task:
    """A subject to be certified with these options."""

    subject: Subject  # its model is the certified one, such as a Smoothed
    config: CertifyConfig
    norm: str  # of the certificates
    prove: Callable[[Journal | None], tuple[Certified, list[int]]]  # returns the record and the predicted classes
    remarks: list[str]  # lines that a user should read before a long run

    def check_same(self, evaluation: Evaluation, path: str) -> None:
        """Raise InputError unless the evaluation is of this classifier on these samples, in the norm of the certificates."""
        differs = difference(evaluation, self.subject)
        if not differs and evaluation.attacks and evaluation.threat.norm != self.norm:
            differs = f"is about attacks in {evaluation.threat.norm}, and the certificates in {self.norm}"
        if not differs and evaluation.attacks:
            differs = predictions_differ(evaluation, self.subject)
        if differs:
            raise InputError(f"{path} {differs}: name another file with `out`")

    def run(self, journal: Journal | None, command: str) -> Evaluation:
        """Return an evaluation without attacks: the certificates and clean accuracy, for smoothing that of the vote."""
        started, began = datetime.now(UTC), time.perf_counter()
        subject, config = self.subject, self.config
        certified, voted = self.prove(journal)
        certified.command = command
        correct = sum(label == one for label, one in zip(subject.y.tolist(), voted, strict=True))
        files: Sequence[str | None] = subject.files or [None] * len(voted)
        samples = [
            Sample(index, label, answer, answer, None, None, file=file)
            for index, label, answer, file in zip(
                subject.index.tolist(), subject.y.tolist(), (or_none(one) for one in voted), files, strict=True
            )
        ]
        return Evaluation(
            model=subject.model_record,
            data=subject.data_record,
            threat=Threat(self.norm, 0.0, "0"),
            clean=Accuracy.of(correct, len(voted)),
            robust=Accuracy.of(correct, len(voted), KIND),
            attacks=[],
            checks=[],
            samples=samples,
            provenance=Provenance(
                command, {key: value for key, value in asdict(config).items() if value not in (None, ())}, config.seed,
                versions(), certified.device, commit(),
                started.isoformat(timespec="seconds"), round(time.perf_counter() - began, 3),
                certified.precision, certified.batch_size,
            ),
            training=subject.training,
            certified=certified,
        )  # fmt: skip


def _agreed(own: float | None, given: float | None) -> float:
    """Return sigma, of the model or as given. Raises InputError if there is none, or if the two differ."""
    if own is not None and given is not None and own != given:
        raise InputError(f"the model is smoothed with sigma {own:g}, and `sigma={given:g}` was given: leave it out")
    if own is None and given is None:
        raise InputError("smoothing needs the noise of training: give `sigma`, such as `sigma=0.25`")
    return float(given if own is None else own)  # type: ignore[arg-type]
