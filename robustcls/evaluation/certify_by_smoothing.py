"""Certify a subject by smoothing: independent of the batch size, and resumable after an interruption."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.certification.smoothing import Certificate, Smoothing, certify_all, check_fixed, noisy_copies
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.gradients import frozen
from robustcls.core.options import parse_batch_size
from robustcls.core.progress import Bar
from robustcls.core.provenance import versions
from robustcls.evaluation.certificate_match import identity
from robustcls.evaluation.certify_config import CertifyConfig
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.models.wrappers.smoothed import Smoothed
from robustcls.results.certified import Certified, CertifiedSample, smoothed_radius
from robustcls.runtime.device import describe_device, exact_fp32, resolve_batch_size, resolve_precision
from robustcls.runtime.fused import Counted, FusedModel
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.predict import predict
from robustcls.runtime.search import make_search_model

DRAWS_KEPT = 4000  # draws per file of the journal
COMPARED = 32  # draws on which the fast copy must agree with the model
TIMES = range(4)  # multiples of sigma that are the default radii of the curve


def certify_by_smoothing(
    subject: Subject,
    smoothing: Smoothing,
    config: CertifyConfig,
    journal: Journal | None,
    radii: Sequence[float] | None = None,
) -> tuple[Certified, list[int]]:
    """Return the record, and the most frequent class among each sample's counted draws, N.

    The subject's model must be a Smoothed. Raises InputError.
    """
    assert isinstance(subject.model, Smoothed)
    base, began = subject.model.model, time.perf_counter()
    _check(base)
    device = device_of(base)
    precision = resolve_precision(config.precision, device)
    parts = OomSafeBatches(resolve_batch_size(parse_batch_size(config.batch_size), subject.x.shape[1:], device))
    with torch.inference_mode(False), torch.no_grad(), frozen(subject.model), exact_fp32():
        check_fixed(Counted(base), subject.x[:1].to(device), smoothing.sigma)
        logits = predict(base, subject.x, parts)
        if journal is not None:
            journal.open(_task(subject, smoothing, config, precision), logits)
        form = as_certified(base, precision, subject.x[0].to(device), smoothing.sigma)
        certificates = _certify(form, subject, smoothing, config, journal, logits.shape[1], parts)
    samples = [
        CertifiedSample(
            index, label, or_none(one.predicted), one.radius if one.predicted == label else 0.0, or_none(one.candidate),
            one.count,
        )
        for index, label, one in zip(subject.index.tolist(), subject.y.tolist(), certificates, strict=True)
    ]  # fmt: skip
    record = Certified.of(
        "smoothing", "l2", samples, [smoothing.sigma * times for times in TIMES] if radii is None else radii,
        sigma=smoothing.sigma, n=smoothing.n, n0=smoothing.n0, alpha=smoothing.alpha, precision=precision, seed=config.seed,
        batch_size=parts.size, device=describe_device(device), seconds=round(time.perf_counter() - began, 3),
        command="robustcls.certify", **identity(subject, logits),
    )  # fmt: skip
    return record, [one.voted for one in certificates]


def or_none(label: int) -> int | None:
    """Return the class, or None for a negative number, which stands for none."""
    return label if label >= 0 else None


def _check(base: nn.Module) -> None:
    if averaged_in(base):
        raise InputError(
            "the model is itself random: smooth the model inside its wrapper, as in smoothed(ckpt.pt, sigma=0.25)"
        )
    if any(getattr(module, "eight_bits", False) for module in base.modules()):
        raise InputError(
            "a service only takes 8-bit images in [0, 1], and noisy images are not: certify the artefact or checkpoint that "
            "it serves"
        )


def as_certified(base: nn.Module, precision: str, image: Tensor, sigma: float) -> nn.Module:
    """Return the model that runs: in fp32 a copy with folded BatchNorm, if it agrees with the model on noisy images, else the
    model itself; in low precision its copy."""
    x = next(noisy_copies(image, COMPARED, sigma, key=(COMPARED,), size=COMPARED))
    if precision == "fp32":
        return make_search_model(base, "fp32", x)
    with as_input_error(f"the model does not run in {precision}", ": give `precision=fp32`"):
        form = FusedModel(base, precision, x[:1])
        form(x)
    return form


def _certify(
    form: nn.Module,
    subject: Subject,
    smoothing: Smoothing,
    config: CertifyConfig,
    journal: Journal | None,
    num_classes: int,
    parts: OomSafeBatches,
) -> list[Certificate]:
    """Return the certificate of each sample, some at a time with a progress bar; those in the journal are read from it."""
    certificates: list[Certificate] = []
    device, right = device_of(subject.model), 0
    with Bar(len(subject.y), "certify", "image", show=not config.quiet) as bar:
        for rows in torch.arange(len(subject.y)).split(max(1, DRAWS_KEPT // smoothing.n)):
            known = journal.read_chunk(rows) if journal else None
            part: Iterable[Certificate] = (
                (_restored(row, smoothing) for row in known["found"].tolist())
                if known
                else certify_all(
                    form, subject.x[rows].to(device), subject.index[rows].tolist(), smoothing,
                    num_classes=num_classes, seed=config.seed, parts=parts,
                )
            )  # fmt: skip
            for label, one in zip(subject.y[rows].tolist(), part, strict=True):
                certificates.append(one)
                right += one.predicted == label
                bar.advance(1, f"{right} certified")
            if journal and known is None:
                kept = [(one.predicted, one.candidate, one.count, one.voted) for one in certificates[-len(rows) :]]
                journal.write_chunk(rows, {"found": torch.tensor(kept)})
    return certificates


def _restored(row: Sequence[int], smoothing: Smoothing) -> Certificate:
    predicted, candidate, count, voted = row
    radius = smoothed_radius(count, smoothing.n, smoothing.alpha, smoothing.sigma) if candidate >= 0 else 0.0
    return Certificate(predicted, radius, candidate, count, voted)


def _task(subject: Subject, smoothing: Smoothing, config: CertifyConfig, precision: str) -> dict[str, Any]:
    """Return everything that must be the same for a run to be resumed."""
    model, data = subject.model_record, subject.data_record
    return {
        "certified": "smoothing", "model": [model.name, model.sha256], "data": data.sha256, "sigma": smoothing.sigma,
        "n": smoothing.n, "n0": smoothing.n0, "alpha": smoothing.alpha, "seed": config.seed, "precision": precision,
        "device": device_of(subject.model).type, "versions": versions(),
    }  # fmt: skip
