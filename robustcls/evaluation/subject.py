"""The subject of an evaluation: a model, its samples and a threat model."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustcls.attacks._targets import Aim
from robustcls.core.class_files import read_listing
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of, sees
from robustcls.core.detector import Detector
from robustcls.core.eight_bits import note_on_levels, rounded, takes_eight_bits
from robustcls.core.gradients import frozen
from robustcls.core.logits import unwrapped
from robustcls.core.options import parse_batch_size, parse_n, parse_numbers
from robustcls.core.threat import ThreatModel
from robustcls.data import recipe
from robustcls.data.images import Images, with_note, without_files
from robustcls.data.mask_file import read_mask
from robustcls.data.seen import seen_in_training
from robustcls.data.spec import may_have_trained_on
from robustcls.data.splits import SAMPLING_RULE, load_split
from robustcls.evaluation.attacked_certificates import AttackedCertificates
from robustcls.evaluation.certify_config import CertifyConfig
from robustcls.evaluation.config import AttackConfig, ExplainConfig, flags_of
from robustcls.evaluation.data_spec import choose_data
from robustcls.evaluation.detector_threshold import detector_of
from robustcls.evaluation.targets import aimed
from robustcls.models.loading import LoadedModel, ModelSource, build_model, fit_to_data, map_classes, read_model
from robustcls.models.remote import remote_of
from robustcls.models.weights import hash_weights
from robustcls.results import records
from robustcls.results.artefact import Manifest
from robustcls.results.balance import GIVEN, SHARES, WHOLE, two_labels
from robustcls.runtime.device import resolve_device, resolve_precision
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import LOOKED_AT, classifier_of, classifier_with_warning
from robustcls.runtime.stored import ImageRows, as_floats, select
from robustcls.training.history import read_training


@dataclass
class Surrogate:
    """Another model on which adversarial examples are crafted (transfer), or from which a file was exported."""

    model: nn.Module
    record: records.Model
    y: Tensor  # N: the samples' labels as numbered by this model's outputs


@dataclass
class Subject:
    """A model, the samples and the threat model under which it is evaluated. Tensors are on the CPU; N samples."""

    model: nn.Module  # maps [0, 1] pixels to logits N,K
    x: ImageRows  # N,C,H,W, float32 in [0, 1]; many large images are stored in 8 bits until they are used
    y: Tensor  # N, int64: labels as numbered by the model's outputs
    threat: ThreatModel
    model_record: records.Model
    data_record: records.Data
    index: Tensor  # N: positions in the split; a sample's random numbers depend only on this and the seed
    files: Sequence[str] | None = None  # N file names, for data stored as files
    classes: Sequence[str] = ()  # names of the labels
    two_labels: tuple[int, int] | None = None  # for data with two classes: the negative label, then the positive one
    training: records.Training | None = None
    surrogate: Surrogate | None = None
    aim: Aim | None = None  # targeted attacks: the target class of each sample
    original: Surrogate | None = None  # if the model is an exported file: the model that it was exported from
    quantization: str = ""  # of an exported file
    made_of: str = ""  # of an exported file: the SHA-256 of the model that it was exported from
    notes: list[str] = field(default_factory=list)  # lines for the user: which choices came from where
    detector: Detector | None = None
    spec: str = ""  # the model as given to `--model`; "" for a module given in Python
    flags: str = ""  # the options of a command that evaluates this subject
    asked_before: int = 0  # number of images that a service had answered before the evaluation
    certificates: AttackedCertificates | None = (
        None  # of this model on these samples; the attacks are checked against them
    )
    images_were_on: torch.device | None = None  # the device of the user's images, if not the CPU

    @property
    def source(self) -> nn.Module:
        """The model whose gradients the attacks use."""
        return self.surrogate.model if self.surrogate else self.model

    @property
    def source_y(self) -> Tensor:
        """The labels as numbered by the outputs of `source`, N."""
        return self.surrogate.y if self.surrogate else self.y

    def take(self, rows: Tensor) -> "Subject":
        """Return the subject with the samples at these positions. The data record stays that of all samples."""
        surrogate, original = (other and replace(other, y=other.y[rows]) for other in (self.surrogate, self.original))
        files = None if self.files is None else [self.files[row] for row in rows.tolist()]
        x, y, index, aim = select(self.x, rows), self.y[rows], self.index[rows], self.aim and self.aim.take(rows)
        return replace(self, x=x, y=y, index=index, aim=aim, files=files, surrogate=surrogate, original=original)


def make_subject(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    index: Tensor | None = None,
    surrogate: nn.Module | None = None,
    name: str = "",
) -> Subject:
    """Return the subject for a module and tensors. The module is not changed. Raises InputError.

    Args:
        model: maps [0, 1] pixels to logits N,K. If it returns a mapping, a tuple, an object with `.logits`, or a single logit
            for two classes, a warning says which part is used.
        images: float N,C,H,W in [0, 1], on any device.
        labels: N.
        index: N integers that identify the images; by default their positions.
        surrogate: a model on which the examples are crafted.
        name: of the model, for the record; by default the name of its class.
    """
    check_images(images, labels, input_size_of(model))
    threat.check_fits(images.shape[1:])
    service = remote_of(model)
    asked_before = service.queries if service else 0
    model, taken = classifier_of(model, images, labels=labels)
    if taken:
        warnings.warn(f"{type(unwrapped(model)).__name__}: {taken}", stacklevel=4)
    # Tensors made in inference mode must be copied, because attacks compute gradients with respect to them.
    with torch.inference_mode(False):
        x = images.detach().to("cpu", torch.float32, copy=images.is_inference())
        y = labels.detach().to("cpu", torch.int64, copy=labels.is_inference())
        if takes_eight_bits(model, threat):
            note_on_levels(threat)
            x = rounded(x)
        outputs = _count_outputs(model, x, y)
        named, sha256 = (name or service.url, service.sha256) if service else (name, "")
        record = describe_model(model, named, sha256, num_classes=outputs, note=taken)
        other = None
        if surrogate is not None:
            fitted = classifier_with_warning(surrogate, images, y)
            other = Surrogate(fitted, describe_model(fitted, num_classes=outputs), y)
            _count_outputs(fitted, x, y)
    data = records.Data("tensors", "given", len(y), _hash_tensors(x, y), len(y), "as given", estimates=GIVEN)
    return Subject(
        model, x, y, threat, record, data,
        index=torch.arange(len(y)) if index is None else index.cpu(),
        classes=record.classes, two_labels=two_labels(record, data, y.tolist()),
        surrogate=other,
        asked_before=asked_before,
        images_were_on=None if images.device.type == "cpu" else images.device,
    )  # fmt: skip


def load_subject(spec: str, options: AttackConfig | ExplainConfig | CertifyConfig) -> Subject:
    """Return the subject that `--model` and the options describe. What they leave open is taken from the checkpoint, and
    noted. Raises InputError for wrong options."""
    return load_subjects([spec], options)[0]


def _load(spec: str, options: AttackConfig | ExplainConfig | CertifyConfig, *, shared: bool) -> Subject:
    """Return the subject without targets. shared: the same options also apply to other models."""
    transfer_from = options.transfer_from if isinstance(options, AttackConfig) else None
    device, count = resolve_device(options.device), parse_n(options.n)
    parse_batch_size(options.batch_size)
    resolve_precision(options.precision, device)
    source = read_model(spec, options.twin)
    file = source.spec  # the model's file or name, without wrappers
    threat, notes = _choose_threat(source, options)
    data_spec, own, said = choose_data(file, source.meta, options.data)
    notes += said
    trained = source.meta if own and may_have_trained_on(own, data_spec) else {}  # then split the data as in training
    split = partial(
        load_split, data_spec, seed=trained.get("seed", options.seed), data_dir=options.data_dir or trained.get("data_dir"),
        skip_corrupt=options.skip_corrupt, limit_train=trained.get("config", {}).get("limit_train"), whole=not trained,
    )  # fmt: skip
    images = evaluated = split(options.split, n=count)
    if not trained:
        unlabelled = source.meta.get("config", {}).get("unlabelled")
        images = with_note(images, seen_in_training(data_spec, images, own, unlabelled))
    ids = images.ids_sha256()
    if options.redact_names:
        images = without_files(images)
    threat.check_fits(images.pixels.shape[1:])
    loaded, mapped, record, said = _fit(source, images, options, shared=shared or transfer_from is not None)
    whose = "" if options.data else f", from {Path(file).name}" if source.meta else ", the default"
    notes = [*said, *notes]
    if takes_eight_bits(loaded.model, threat) and (line := note_on_levels(threat)):
        notes.append(line)
    notes.append(f"data {data_spec}{whose}, split {options.split}: {len(images)} of {images.available} samples")
    notes += [images.note] if images.note else []
    sampling, estimates = (SAMPLING_RULE, SHARES) if len(images) < images.available else ("all", WHOLE)
    data = records.Data(
        data_spec, options.split, len(images), images.sha256(), images.available, sampling, images.note,
        list(images.skipped), class_map=mapped, estimates=estimates,
        split_counts=mapped.renumber(list(images.split_counts)) if mapped else list(images.split_counts),
        ids=ids,
    )  # fmt: skip
    surrogate = None
    if transfer_from:
        other, its_map, its_record, said = _fit(read_model(transfer_from), images, options, shared=True)
        surrogate = Surrogate(other.model, its_record, _renumber(images.labels, its_map))
        notes += said
    original = None
    if spec_of_original := getattr(options, "original", None):
        other, its_map, its_record, said = _fit(read_model(spec_of_original), images, options, shared=True)
        original = Surrogate(other.model, its_record, _renumber(images.labels, its_map))
        notes += said
    manifest = source.content if isinstance(source.content, Manifest) else None
    if original and manifest and manifest.source.sha256 != original.record.sha256:
        notes.append(
            f"{original.record.name} is not the file that {loaded.name} was made of (SHA-256), {manifest.source.name}"
        )
    x = as_floats(images.pixels) if isinstance(options, AttackConfig) else images.batch()[0]
    return Subject(
        loaded.model, x, _renumber(images.labels, mapped), threat, record, data,
        index=images.index, files=images.files,
        classes=tuple(record.classes) if mapped else images.classes,
        two_labels=two_labels(record, data),
        training=read_training(Path(file), source.meta) if source.meta and source.single else None,
        surrogate=surrogate, original=original,
        quantization=manifest.quantization.spec if manifest and manifest.quantization else "",
        made_of=manifest.source.sha256 if manifest else "",
        notes=notes, detector=detector_of(options, loaded.model, split, evaluated), spec=spec,
        flags=flags_of(options),
    )  # fmt: skip


def load_subjects(specs: Sequence[str], options: AttackConfig | ExplainConfig | CertifyConfig) -> list[Subject]:
    """Like `load_subject`, for several models on the same data, whose images are kept in memory once. Raises InputError."""
    subjects = [_load(spec, options, shared=len(specs) > 1) for spec in specs]
    for subject in subjects:
        if subject.data_record.sha256 == subjects[0].data_record.sha256:
            subject.x = subjects[0].x
        for other in subjects:
            if subject.original is None and subject.made_of and subject.made_of == other.model_record.sha256:
                subject.original = Surrogate(other.model, other.model_record, other.y)
    target, size = getattr(options, "target", None), parse_batch_size(options.batch_size)
    return [aimed(subject, target, seed=options.seed, batch_size=size) for subject in subjects]


def describe_model(
    model: nn.Module, name: str = "", sha256: str = "", num_classes: int = 0, note: str = ""
) -> records.Model:
    """Return the record of a model: its class names and input size, where it has them, and a hash of its weights."""
    model = unwrapped(model)
    classes = getattr(model, "classes", None)
    if not isinstance(classes, (tuple, list)) or not classes:
        classes = [str(number) for number in range(num_classes)]
    return records.Model(
        name=name or str(getattr(model, "title", type(model).__name__)),
        sha256=sha256 or hash_weights(model),
        arch=str(getattr(model, "arch", "") or type(model).__name__),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=list(input_size_of(model) or ()),
        classes=[str(label) for label in classes],
        note=note,
    )


def _choose_threat(
    source: ModelSource, options: AttackConfig | ExplainConfig | CertifyConfig
) -> tuple[ThreatModel, list[str]]:
    """Return the threat model of the options, else of the checkpoint, else of the recipe, whose radius needs the same norm."""
    known, whose = source.meta.get("threat"), f"from {Path(source.spec).name}"
    if not known:
        data = recipe(options.data or "digits")
        known = {"norm": data.get("norm", "linf"), "eps": data.get("eps", "8/255")}
        whose = "the usual one for the data"
    threat = ThreatModel.chosen(options.norm, options.eps, known)
    if isinstance(options, AttackConfig):
        threat = replace(threat, mask=read_mask(options.mask), eight_bit=options.eight_bit)
    return threat, [f"threat {threat}, {whose}" if options.eps is None else f"threat {threat}"]


def _fit(
    source: ModelSource, images: Images, options: AttackConfig | ExplainConfig | CertifyConfig, *, shared: bool
) -> tuple[LoadedModel, records.ClassMap | None, records.Model, list[str]]:
    """Return the model on its device, the map from the data's classes to its outputs (None if they are the same), its record,
    and notes. shared: the options' list of classes may be about another model. Raises InputError for unmapped classes."""
    loaded = build_model(
        source,
        arch=options.arch,
        classes=images.classes,
        input_size=tuple(images.pixels.shape[1:]),
        mean=parse_numbers(options.mean, "mean"),
        std=parse_numbers(options.std, "std"),
    )
    loaded.model.to(resolve_device(options.device))
    x, _ = images.batch(slice(LOOKED_AT))
    listing = read_listing(options.classes, images.classes) if options.classes else None
    if loaded.classes and listing is None:  # of what is wrong this says most, and needs no pass through the model
        map_classes(loaded, images.classes, len(loaded.classes))
    check_images(x[:1], input_size=input_size_of(loaded.model))
    found, taken = fit_to_data(loaded, x, images.classes, listing, shared=shared)
    record = describe_model(loaded.model, loaded.name, loaded.sha256)
    record.classes = list(found.names)
    record.input_size = record.input_size or list(x.shape[1:])
    record.note = "; ".join(filter(None, (taken, sees(loaded.model))))
    mapped = records.ClassMap(list(images.classes), list(found.outputs), found.rule) if found.rule else None
    said = [*loaded.notes, f"model {loaded.name} {sees(loaded.model)}"]
    said += [f"{loaded.name}: {line}" for line in (taken, found.rule) if line]
    if service := remote_of(loaded.model):
        said += service.notes
    return loaded, mapped, record, said


def _renumber(labels: Tensor, mapped: records.ClassMap | None) -> Tensor:
    return labels if mapped is None else torch.tensor(mapped.outputs, device=labels.device)[labels]


def _count_outputs(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return the number of the model's outputs. Raises InputError unless it gives logits for these labels."""
    with torch.no_grad(), frozen(model):
        logits = Counted(model)(x[:1].to(device_of(model)))
        check_logits(logits, y)
    return logits.shape[1]


def _hash_tensors(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
