"""Whether an evaluation that was made before is about the same classifier and samples, so that certificates and attacks can
stand beside each other."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.wrapped import read_wrapped
from robustcls.evaluation.attacked_certificates import AttackedCertificates
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.smoothed import Smoothed
from robustcls.results.records import Certified, Evaluation


def difference(evaluation: Evaluation, subject: Subject, whose: str = "certified") -> str:
    """What is not the same, in words that follow the evaluation's name; "" for nothing. whose: the subject's model."""
    ours, its = subject.model_record, evaluation.model
    if _identity(its.name, its.sha256) != _identity(ours.name, ours.sha256):
        same_name = f", with other weights, and {whose} are these" if its.name == ours.name else ""
        return f"is of {its.name}" + (same_name or f", and {whose} is {ours.name}")
    named = sorted(zip(subject.index.tolist(), subject.y.tolist(), strict=True))
    if evaluation.data.sha256 != subject.data_record.sha256 or named != sorted(
        (one.index, one.label) for one in evaluation.samples
    ):
        return "is on other samples"
    if evaluation.rejection is not None:
        return f"is beside the detector {evaluation.rejection.detector}, and the certificates without"
    return ""


def certificates_at(path: Path, subject: Subject) -> tuple[AttackedCertificates | None, str]:
    """The certificates of an evaluation at `path`, where they are of the subject's classifier and samples, in the norm of its
    threat, and what is to be said of them; None where there are none to keep beside its attacks."""
    try:
        earlier = Evaluation.load(path) if path.is_file() and path.stat().st_size else None
    except InputError:
        return None, ""
    if earlier is None or earlier.certified is None:
        return None, ""
    differs, norm = difference(earlier, subject, "attacked"), earlier.certified.norm
    if not differs and subject.detector is not None:
        differs = "is without the detector"
    if not differs and norm != subject.threat.norm:
        differs = f"has certificates in {norm}, and the attacks are in {subject.threat.norm}"
    if differs:
        return None, f"the certificates in {path} are not kept beside the attacks: it {differs}"
    return AttackedCertificates(
        earlier.certified, subject.model
    ), f"the certificates in {path} are kept, beside the attacks"


def certificates_from(certificates: Any, subject: Subject) -> AttackedCertificates:
    """Those that `robustcls.certify` made of the same model and images. Raises InputError where they cannot be."""
    record = getattr(certificates, "record", certificates)
    if not isinstance(record, Certified):
        raise InputError(f"`certificates` is {certificates!r:.40}: give what robustcls.certify returned")
    if record.norm != subject.threat.norm:
        raise InputError(
            f"`certificates` are in {record.norm}, and the attacks in {subject.threat.norm}: take one norm"
        )
    named = [(one.index, one.label) for one in record.samples]
    if sorted(named) != sorted(zip(subject.index.tolist(), subject.y.tolist(), strict=True)):
        raise InputError("`certificates` are of other samples: certify the images and labels that are attacked")
    sigma = subject.model.sigma if isinstance(subject.model, Smoothed) else None
    if sigma != record.sigma:
        one, other = (f"smoothed with sigma {value:g}" if value else "not smoothed" for value in (record.sigma, sigma))
        raise InputError(
            f"`certificates` are of a model {one}, and the one that is attacked is {other}: attack the same one"
        )
    if subject.detector is not None:
        raise InputError("`certificates` are of a model without a detector: leave out `detector`")
    ours = digests(subject)
    if not record.weights_sha256 or not record.images_sha256:
        raise InputError("`certificates` do not say of which weights and images they are: certify the model again")
    if record.images_sha256 != ours["images_sha256"]:
        raise InputError("`certificates` are of other images: certify the very ones that are attacked")
    if record.weights_sha256 != ours["weights_sha256"]:
        raise InputError("`certificates` are of a model with other weights: certify the very one that is attacked")
    return AttackedCertificates(record, subject.model)


def digests(subject: Subject) -> dict[str, str]:
    """SHA-256 in hex of what is certified: the fields `weights_sha256` and `images_sha256` of the record.

    Of tensors without their names, so that wrappers around the network and the order of the samples change nothing.
    """
    model, (weights, images) = subject.model, (hashlib.sha256() for _ in range(2))
    tensors = (model.model if isinstance(model, Smoothed) else model).state_dict().values()
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            weights.update(_bytes(tensor))
    for row in subject.index.argsort():
        images.update(_bytes(subject.x[row[None]]))
        images.update(_bytes(subject.y[row]))
    return {"weights_sha256": weights.hexdigest(), "images_sha256": images.hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    """With the shape in front."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return repr(tuple(tensor.shape)).encode() + flat.view(torch.uint8).numpy().tobytes()


def _identity(name: str, sha256: str) -> tuple[str, float, str]:
    """Which smoothed classifier a model is: how many draws its vote is attacked with does not matter."""
    named = read_wrapped(name)
    options = dict(named.wrapper.options) if named.wrapper else {}
    if named.wrapper is None or named.wrapper.name != "smoothed" or "sigma" not in options:
        return name, 0.0, sha256
    return named.inside[0].name(), float(options["sigma"]), sha256
