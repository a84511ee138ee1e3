"""The targets of a subject for targeted attacks."""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from robustcls.attacks._targets import STREAM, Aim, Target, choose_targets, names_of, needs_logits, rule_of
from robustcls.core.classifier import device_of
from robustcls.core.draws import SampleGenerator
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.seeds import mix
from robustcls.models.wrappers.averaged import restart
from robustcls.runtime.device import resolve_batch_size
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.subject import Subject


def aimed(subject: "Subject", target: Target | None, *, seed: int, batch_size: int | str = "auto") -> "Subject":
    """Return the subject with a target class for each sample.

    If one class is named for all samples, those whose label it is are left out. target: as in `robustcls.attack`; None returns
    the subject unchanged. seed: for the rule `random`, whose choice depends only on the seed and the sample. Raises InputError.
    """
    if target is None:
        return subject
    model, y, device = subject.model, subject.y, device_of(subject.model)
    if subject.surrogate is not None and not torch.equal(subject.surrogate.y, y):
        raise InputError("the model of `transfer_from` numbers its classes in another way: leave out `target`")
    if isinstance(target, torch.Tensor):
        target = target.cpu()
    size = resolve_batch_size(batch_size, subject.x.shape[1:], device)
    restart(model, seed)  # otherwise the runner-up of a random model would depend on its earlier draws
    with torch.inference_mode(False), frozen(model):
        logits = predict(model, subject.x if needs_logits(target) else subject.x[:1], size)
    names = subject.model_record.classes or names_of(model, logits.shape[1])
    generator = SampleGenerator.of(subject.index, mix(seed, STREAM), torch.device("cpu"))
    chosen = choose_targets(target, y, logits.shape[1], generator, logits=logits, names=names)
    other, rule = (chosen != y).nonzero().squeeze(1), rule_of(target, names)
    left_out = len(y) - len(other)
    subject = replace(subject, aim=Aim(chosen, rule, left_out))
    if left_out == 0:
        return subject
    subject, data = subject.take(other), subject.data_record
    note = f"{left_out} samples of class {rule}, which the attacks aim at, are left out"
    digest = hashlib.sha256(f"{data.sha256} without {sorted(set(y[chosen == y].tolist()))}".encode()).hexdigest()
    subject.data_record = replace(
        data, n=len(other), sha256=digest, note="; ".join(filter(None, (data.note, note))),
        estimates=f"{data.estimates}, but for the class {rule}" if data.estimates else "",
    )  # fmt: skip
    subject.notes = [*subject.notes, note]
    return subject
