"""Whether a service runs the same file as its twin."""

from pathlib import Path

import torch

from robustcls.core.losses import predict_labels
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, verdict
from robustcls.evaluation.checks.twin import OTHER
from robustcls.evaluation.engine import Engine
from robustcls.models.onnx.net import net_of
from robustcls.models.remote import RemoteNet, remote_of
from robustcls.results.artefact import Manifest
from robustcls.results.records import Check
from robustcls.runtime.predict import predict
from robustcls.runtime.session import read_reference

NAME = "served"
NO_TWIN = "nothing to compare the service with: name the artefact that it serves with --twin"


@check(26)
def served(engine: Engine, outcome: Outcome) -> Check | None:
    """Whether the service answers the twin's reference images with the logits in its reference.npz.

    If the twin is not an artefact, the labels of the samples are compared instead. None if the model is not a service.
    """
    service = remote_of(engine.subject.model)
    if service is None:
        return None
    if service.twin is None:
        return Check(NAME, "not_run", None, None, NO_TWIN)
    file = net_of(service.twin)
    if file is None or file.manifest is None:
        return _by_labels(engine, service)
    return _by_reference(service, Path(file.path).parent, file.manifest)


def _by_reference(service: RemoteNet, folder: Path, manifest: Manifest) -> Check:
    pixels, logits = read_reference(folder, manifest)
    answers, expected = torch.from_numpy(service.answers(pixels)), torch.from_numpy(logits)
    off, largest = (answers - expected).abs().max().item(), expected.abs().max().item()
    same = int((predict_labels(answers) == predict_labels(expected)).sum())
    what = (
        f"of the {len(pixels)} reference images of {service.twin_name}, sent to the service, {same} have the file's label, and "
        f"logits differ by {off:.3g} at most (largest {largest:.3g})"
    )
    if service.sha256 != manifest.file.sha256:
        what = f"the service names file {service.sha256[:12]}, the twin is {manifest.file.sha256[:12]}: {what}"
    advice = "the service does not run this file: serve it, or evaluate the one that is served"
    threshold = manifest.reference_tolerance * largest
    if off <= threshold and same == len(pixels) and service.sha256 != manifest.file.sha256:
        return Check(NAME, "warn", off, threshold, f"{what}; the gradients are another file's, with the same answers")
    return verdict(NAME, off, threshold, what, advice)


def _by_labels(engine: Engine, service: RemoteNet) -> Check:
    assert service.twin is not None
    twin_logits = predict(service.twin.to(engine.device), engine.x, engine.parts)
    other = (predict_labels(twin_logits) != predict_labels(engine.logits)).float().mean().item()
    what = f"{1 - other:.1%} of {len(engine.y)} labels of the service agree with those of its twin {service.twin_name}"
    return verdict(NAME, other, OTHER, what, "the service runs another model, so these are not its gradients")
