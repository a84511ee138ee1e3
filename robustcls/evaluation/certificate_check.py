"""Check an evaluation's attacks against its certificates; `robustcls.results.contradictions` makes the self-check."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustcls.certification.smoothing import ABSTAIN, STREAM, count_votes, predict
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.progress import Bar
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacked_certificates import AttackedCertificates
from robustcls.evaluation.certify_by_smoothing import as_certified
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.smoothed import Smoothed
from robustcls.results.contradictions import Contradiction, check_of, contradictions, put, reach
from robustcls.results.records import Evaluation
from robustcls.runtime.device import exact_fp32
from robustcls.runtime.memory import OomSafeBatches
from robustcls.runtime.stored import Stored

SAME = 1e-6  # tolerance when comparing a saved image with that of the data


def check_certificates(
    subject: Subject, evaluation: Evaluation, *, seed: int, batch_size: int, progress: bool = False
) -> None:
    """Add the subject's certificates to the evaluation, and the self-check that no attack contradicts them.

    Without certificates, nothing happens. If a sample is certified by smoothing and was counted as broken, the vote is repeated
    on the adversarial example: PREDICT of Cohen et al. 2019 (arXiv:1902.02918), with as many draws as the certificate and at
    its alpha. A vote that abstains or gives the label is no contradiction.
    """
    certificates = subject.certificates
    if certificates is None:
        return
    evaluation.certified = certificates.record
    found = contradictions(evaluation, certificates.distance)
    answers: dict[int, int] = {}
    if certificates.record.method == "smoothing":
        images = _images(subject, evaluation, certificates, found)
        answers = repeat_votes(subject, certificates, images, seed=seed, batch_size=batch_size, progress=progress)
    put(evaluation, check_of(evaluation, found, answers))


def _images(
    subject: Subject, evaluation: Evaluation, certificates: AttackedCertificates, found: Mapping[int, Contradiction]
) -> dict[int, list[Tensor]]:
    """Return the images on which to repeat the vote, by index, as far as they are in memory.

    These are the example with the largest margin and the example that counted as success, or the clean image if that is
    misclassified.
    """
    images = {name: [image] for name, (_, image) in certificates.images.items() if name in found}
    examples = evaluation.examples
    for row, name in enumerate(subject.index.tolist()):
        if name not in found:
            continue
        if found[name].distance == 0:
            images[name] = [subject.x[torch.tensor([row])][0]]
        elif examples is not None and _is_kept(examples, row, reach(found[name].radius)):
            images.setdefault(name, []).append(examples.x_adv[torch.tensor([row])][0])
    return images


def _is_kept(examples: Examples, row: int, radius: float) -> bool:
    """Whether the adversarial example of a row is in memory, and lies within this radius."""
    if not examples.success[row] or examples.distance[row] > radius:
        return False
    return not isinstance(examples.x_adv, Stored) or bool(examples.x_adv.kept[row])


def repeat_votes(
    subject: Subject,
    certificates: AttackedCertificates,
    images: Mapping[int, Sequence[Tensor]],
    *,
    seed: int,
    batch_size: int,
    progress: bool = False,
) -> dict[int, int]:
    """Return the vote of the smoothed model on the images (each C,H,W) of each sample, by index.

    The result is a wrong class if the vote gives one for any image of the sample, else ABSTAIN if it abstains on any, else the
    label.
    """
    if not images:
        return {}
    record, label = certificates.record, {one.index: one.label for one in certificates.record.samples}
    assert isinstance(subject.model, Smoothed)
    assert record.n is not None
    assert record.alpha is not None
    assert record.sigma is not None
    base, parts, answers = subject.model.model, OomSafeBatches(batch_size), {}
    n, alpha, sigma, device = record.n, record.alpha, record.sigma, device_of(base)
    with torch.inference_mode(False), torch.no_grad(), frozen(subject.model), exact_fp32():
        x = next(iter(images.values()))[0].to(device)
        form = as_certified(base, record.precision, x, sigma)
        classes = form(x[None]).shape[1]

        def answer(name: int, image: Tensor) -> int:
            known = certificates.answers.setdefault(name, [])
            for earlier, vote in known:
                if torch.equal(earlier, image):
                    return vote

            def votes(n: int, purpose: int) -> Tensor:
                key = (seed, STREAM, name, purpose, len(known))
                return count_votes(form, image.to(device), n, sigma, num_classes=classes, key=key, parts=parts)

            known.append((image, predict(votes, n, alpha)))
            return known[-1][1]

        with Bar(len(images), "ask again", "image", show=progress) as bar:
            for name, own_images in images.items():
                given = [answer(name, image) for image in own_images]
                wrong = [one for one in given if one not in (ABSTAIN, label[name])]
                answers[name] = wrong[0] if wrong else ABSTAIN if ABSTAIN in given else label[name]
                bar.advance(1)
    return answers


def check_earlier_attacks(
    subject: Subject,
    evaluation: Evaluation,
    examples: str | Path | None,
    *,
    seed: int,
    batch_size: int,
    progress: bool = False,
) -> None:
    """Check the attacks of an evaluation that was saved earlier against its new certificates.

    examples: the npz that `save_examples` wrote for those attacks, if it is available.
    """
    assert evaluation.certified is not None
    certificates = subject.certificates = AttackedCertificates(evaluation.certified, subject.model)
    if examples is not None:
        rows = {int(name): row for row, name in enumerate(subject.index.tolist())}
        ball = ThreatModel.parse(f"{certificates.record.norm}:0")
        for name, image in read_examples(examples, subject).items():
            far = ball.distance(image[None], subject.x[torch.tensor([rows[name]])]).item()
            if far <= certificates.reach.get(name, -1.0):
                certificates.images[name] = 0.0, image
    check_certificates(subject, evaluation, seed=seed, batch_size=batch_size, progress=progress)


def read_examples(path: str | Path, subject: Subject) -> dict[int, Tensor]:
    """Return the adversarial examples of a file that `Examples.save` wrote, by index.

    Raises InputError if it is another file, or was made from other images than the subject's.
    """
    wrong = f"{path} holds no adversarial examples: give the file that `robustcls attack --save-examples` wrote"
    try:
        with np.load(path, allow_pickle=False) as file:
            x, x_adv, index = (file[name] for name in ("x", "x_adv", "index"))
    except FileNotFoundError:
        raise InputError(f"no file {path}: give the one that `robustcls attack --save-examples` wrote") from None
    except (OSError, ValueError, KeyError, EOFError) as failure:
        raise InputError(wrong) from failure
    if x.shape != x_adv.shape or x.dtype != np.float32 or x_adv.dtype != np.float32 or index.shape != x.shape[:1]:
        raise InputError(wrong)
    rows = {int(name): row for row, name in enumerate(subject.index.tolist())}
    if x.shape[1:] != tuple(subject.x.shape[1:]) or not all(int(name) in rows for name in index):
        raise InputError(f"{path} is of other images than these: give the examples of the same evaluation")
    at = torch.tensor([rows[int(name)] for name in index], dtype=torch.int64)
    if len(at) and not torch.allclose(subject.x[at], torch.from_numpy(x), rtol=0, atol=SAME):
        raise InputError(f"{path} is of other images than these: give the examples of the same evaluation")
    return dict(zip(map(int, index), torch.from_numpy(x_adv), strict=True))
