"""Certify a subject by bounds: the largest of some radii at which each prediction is proven; resumable."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robustcls.certification.bounds import certify_bounds, check
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.options import parse_batch_size
from robustcls.core.progress import Bar
from robustcls.core.provenance import versions
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.certificate_match import identity
from robustcls.evaluation.certify_config import CertifyConfig
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.results.certified import Certified, CertifiedSample
from robustcls.runtime.device import describe_device, exact_fp32, resolve_batch_size
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.predict import predict

SHARES = (0.0, 0.25, 0.5, 1.0)  # default radii, as shares of the threat model's
KEPT = 20  # images per file of the journal
ALGORITHM = "CROWN (arXiv:1811.00866), the best of it and of interval bounds, in float64"


def radii_of(threat: ThreatModel, radii: Sequence[float] | None) -> list[float]:
    """Return the radii given, or shares of the threat model's radius. Raises InputError if bounds cannot certify them."""
    chosen = [share * threat.eps for share in SHARES] if radii is None else list(radii)
    if max(chosen) == 0:
        raise InputError(
            "bounds at radius 0 say no more than the clean accuracy: give a radius above 0, such as `eps_grid=0,1/255,2/255`"
        )
    check(threat.at(max(chosen)))
    return chosen


def certify_by_bounds(
    subject: Subject, config: CertifyConfig, journal: Journal | None, radii: Sequence[float]
) -> tuple[Certified, list[int]]:
    """Return the record, and the model's predicted classes, N. Raises InputError unless the model is a plain network."""
    model, began, device = subject.model, time.perf_counter(), device_of(subject.model)
    if averaged_in(model):
        raise InputError("bounds need a network of plain layers, and this model is random: leave out `method=bounds`")
    parts = OomSafeBatches(resolve_batch_size(parse_batch_size(config.batch_size), subject.x.shape[1:], device))
    with torch.no_grad(), frozen(model), exact_fp32():
        logits = predict(model, subject.x, parts)
    if journal is not None:
        journal.open(_task(subject, radii), logits)
    answers = predict_labels(logits).cpu()
    right, largest = answers == subject.y.cpu(), []
    with Bar(len(right), "certify", "image", show=not config.quiet) as bar:
        for rows in torch.arange(len(right)).split(KEPT):
            known = journal.read_chunk(rows) if journal else None
            part = known["radius"] if known else _largest(subject, rows, right[rows], radii)
            if journal and known is None:
                journal.write_chunk(rows, {"radius": part})
            largest.append(part)
            bar.advance(len(rows), f"{sum(int((each > 0).sum()) for each in largest)} certified")
    samples = [
        CertifiedSample(index, label, answer if answer >= 0 else None, radius)
        for index, label, answer, radius in zip(
            subject.index.tolist(), subject.y.tolist(), answers.tolist(), torch.cat(largest).tolist(), strict=True
        )
    ]
    record = Certified.of(
        "bounds", subject.threat.norm, samples, radii, algorithm=ALGORITHM, batch_size=parts.size,
        device=describe_device(device), seconds=round(time.perf_counter() - began, 3), command="robustcls.certify",
        **identity(subject, logits),
    )  # fmt: skip
    return record, answers.tolist()


def _largest(subject: Subject, rows: Tensor, right: Tensor, radii: Sequence[float]) -> Tensor:
    """Return the largest radius at which each of the rows is certified, float64, or 0.

    A certificate at one radius also holds at every smaller one, so radii are tried from the largest down.
    """
    largest, left = torch.zeros(len(rows), dtype=torch.float64), right.clone()
    for radius in sorted({one for one in radii if one > 0}, reverse=True):
        if not left.any():
            break
        where = left.nonzero().squeeze(1)
        x, y = subject.x[rows[where]], subject.y[rows[where]]
        certified = certify_bounds(subject.model, x, y, subject.threat.at(radius)).certified.cpu()
        largest[where[certified]] = radius
        left[where[certified]] = False
    return largest


def check_precision(config: CertifyConfig) -> None:
    """Raise InputError if low precision was asked for: bounds are computed for the model itself."""
    if config.precision != "fp32":
        raise InputError(
            f"bounds certify the model itself, not a copy in low precision: leave out `precision={config.precision}`"
        )


def _task(subject: Subject, radii: Sequence[float]) -> dict[str, Any]:
    """Return everything that must be the same for a run to be resumed."""
    model, data = subject.model_record, subject.data_record
    return {
        "certified": "bounds", "model": [model.name, model.sha256], "data": data.sha256, "norm": subject.threat.norm,
        "radii": list(radii), "device": device_of(subject.model).type, "versions": versions(),
    }  # fmt: skip
