"""Whether certificates and attacks are about the same classifier and samples, so that one evaluation can hold both."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.wrapped import read_wrapped
from robustcls.evaluation.attacked_certificates import AttackedCertificates
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.smoothed import Smoothed
from robustcls.results.records import Certified, Evaluation, Model
from robustcls.runtime.device import exact_fp32
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.predict import predict
from robustcls.runtime.stored import select

COMPARED = 100  # samples whose margins are recorded
ROUNDING = 0.002  # share of clean images whose prediction may differ by rounding


def difference(evaluation: Evaluation, subject: Subject, whose: str = "certified") -> str:
    """Return how an evaluation differs from the subject, in words that follow the evaluation's name, or "" if it does not.

    whose: what is done with the subject's model, such as "certified".
    """
    own, earlier = subject.model_record, evaluation.model
    if _identity(earlier.name, earlier.sha256) != _identity(own.name, own.sha256):
        same_name = f", with other weights, and {whose} are these" if earlier.name == own.name else ""
        return f"is of {earlier.name}" + (same_name or f", and {whose} is {own.name}")
    if (earlier.arch, earlier.note) != (own.arch, own.note):
        return f"is of {earlier.name} as {_read_as(earlier)}, and {whose} is this as {_read_as(own)}"
    named = sorted(zip(subject.index.tolist(), subject.y.tolist(), strict=True))
    if evaluation.data.sha256 != subject.data_record.sha256 or named != sorted(
        (one.index, one.label) for one in evaluation.samples
    ):
        return "is on other samples"
    if evaluation.rejection is not None:
        return f"is beside the detector {evaluation.rejection.detector}, and the certificates without"
    return ""


def predictions_differ(evaluation: Evaluation, subject: Subject) -> str:
    """Return how the predictions on clean images differ from those in the evaluation, or "" if at most by rounding.

    Of a smoothed model, "": each pass draws other noise.
    """
    if isinstance(subject.model, Smoothed):
        return ""
    before = {one.index: one.clean for one in evaluation.samples}
    with torch.no_grad(), frozen(subject.model), exact_fp32():
        now = predict_labels(predict(subject.model, subject.x, OomSafeBatches(COMPARED))).tolist()
    other = sum(
        before[index] != (None if label == NO_ANSWER else label)
        for index, label in zip(subject.index.tolist(), now, strict=True)
    )
    if other <= ROUNDING * len(now):
        return ""
    return f"is of a model with other outputs: predictions differ on {other} of {len(now)} clean images"


def certificates_at(path: Path, subject: Subject) -> tuple[AttackedCertificates | None, str]:
    """Return the certificates in the evaluation at `path` that can be kept with attacks on the subject, and a line about them.

    They must be of the same classifier and samples, and in the norm of the threat model; otherwise they are None.
    """
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
    if not differs and not _same_margins(earlier.certified, subject):
        differs = "is of a model with the same weights and other outputs"
    if differs:
        return None, f"the certificates in {path} are not kept beside the attacks: it {differs}"
    return AttackedCertificates(
        earlier.certified, subject.model
    ), f"the certificates in {path} are kept, beside the attacks"


def certificates_from(certificates: Any, subject: Subject) -> AttackedCertificates:
    """Return certificates that `robustcls.certify` made, for attacks on the same subject.

    Raises InputError if they are not of the subject's model and images, or in another norm.
    """
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
    own = digests(subject)
    if not record.weights_sha256 or not record.images_sha256:
        raise InputError("`certificates` do not say of which weights and images they are: certify the model again")
    if record.images_sha256 != own["images_sha256"]:
        raise InputError("`certificates` are of other images: certify the very ones that are attacked")
    if record.weights_sha256 != own["weights_sha256"]:
        raise InputError("`certificates` are of a model with other weights: certify the very one that is attacked")
    if not _same_margins(record, subject):
        raise InputError(
            "`certificates` are of a model with the same weights and other outputs: certify the very one that is attacked"
        )
    return AttackedCertificates(record, subject.model)


def identity(subject: Subject, logits: Tensor) -> dict[str, Any]:
    """Return the fields of the record that identify the classifier and the images. logits: of the network inside, N,K."""
    return digests(subject) | {"margins": _margins(logits[_compared(subject)])}


def _compared(subject: Subject) -> Tensor:
    """Return the positions of the samples whose margins are recorded."""
    return subject.index.argsort()[:COMPARED]


def _margins(logits: Tensor) -> list[float]:
    first, second = logits.double().topk(2).values.nan_to_num().unbind(1)
    return [float(f"{margin:.6g}") for margin in (first - second).tolist()]


def _same_margins(record: Certified, subject: Subject) -> bool:
    """Whether the network inside has the margins of the record, up to rounding; True where the record has none."""
    if not record.margins:
        return True
    model = subject.model.model if isinstance(subject.model, Smoothed) else subject.model
    x = select(subject.x, _compared(subject))
    with torch.no_grad(), frozen(model), exact_fp32():
        now = torch.tensor(_margins(predict(model, x, OomSafeBatches(len(x)))))
    before = torch.tensor(record.margins)
    return before.shape == now.shape and torch.allclose(before, now, rtol=1e-3, atol=1e-3 * float(before.max()))


def digests(subject: Subject) -> dict[str, str]:
    """Return the SHA-256, in hex, of the certified weights and images: the record's `weights_sha256` and `images_sha256`.

    Tensors are hashed without their names, so that wrappers around the network do not change the digest, and images in the
    order of their indices.
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


def _read_as(model: Model) -> str:
    return ", ".join(filter(None, (model.arch, model.note)))


def _bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, preceded by its shape."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return repr(tuple(tensor.shape)).encode() + flat.view(torch.uint8).numpy().tobytes()


def _identity(name: str, sha256: str) -> tuple[str, float, str]:
    """Return what identifies a smoothed classifier: the model, sigma and digest, but not the draws that attacks use."""
    named = read_wrapped(name)
    options = dict(named.wrapper.options) if named.wrapper else {}
    if named.wrapper is None or named.wrapper.name != "smoothed" or "sigma" not in options:
        return name, 0.0, sha256
    return named.inside[0].name(), float(options["sigma"]), sha256
