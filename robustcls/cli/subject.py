"""The model and the samples that a command speaks of."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from robustcls.core import plugins
from robustcls.core.class_files import read_listing
from robustcls.core.class_map import match_classes
from robustcls.core.classifier import check_images, input_size_of, sees
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size, parse_n, parse_numbers
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data import recipe
from robustcls.data.images import Images, without_files
from robustcls.data.splits import SAMPLING_RULE, check_named_by_file, decoded_alike, load_split, may_have_trained_on
from robustcls.evaluation.config import SubjectOptions
from robustcls.evaluation.judge import describe_model
from robustcls.models.loading import LoadedModel, ModelSource, build_model, fit_to_data, read_model
from robustcls.results import records
from robustcls.results.balance import SHARES, WHOLE
from robustcls.runtime.device import resolve_device, resolve_precision
from robustcls.runtime.predict import LOOKED_AT
from robustcls.training.history import read_training


@dataclass
class Subject:
    loaded: LoadedModel
    images: Images  # the chosen samples, on the CPU; labels are numbers of the model's outputs
    threat: ThreatModel
    data: records.Data
    model: records.Model
    training: records.Training | None
    notes: list[str]
    unmapped: Images  # the same samples, with the numbers and the names that the data gives their classes


def load_subject(
    spec: str, config: SubjectOptions, n: int | str, attacks: Sequence[str], *, shared: bool = False
) -> Subject:
    """Takes what the options leave open from the checkpoint, and notes what it took. shared: other models are judged by the
    same options.

    Raises InputError for whatever is wrong with the options, so that nothing is said or computed before. attacks: specs.
    """
    device, count = resolve_device(config.device), parse_n(n)
    parse_batch_size(config.batch_size)
    resolve_precision(config.precision, device)
    options = {attack: plugins.resolved("attack", attack) for attack in attacks}
    source = read_model(spec)
    threat, notes = _threat(source, config)
    for attack in attacks:
        threat.check_options(attack, options[attack])
    own = source.meta.get("data")
    if own and not config.data:
        check_named_by_file(own, spec)
    data_spec, carried = decoded_alike(config.data or own or "digits", own) if own else (config.data or "digits", "")
    if carried:
        notes.append(
            f"images decoded with {carried}, as in training, from {Path(spec).name}: --data folder:PATH(...) says otherwise"
        )
    trained = source.meta if own and may_have_trained_on(own, data_spec) else {}  # then the split that it trained on
    images = load_split(
        data_spec,
        config.split,
        seed=trained.get("seed", config.seed),
        data_dir=config.data_dir or trained.get("data_dir"),
        skip_corrupt=config.skip_corrupt,
        limit_train=trained.get("config", {}).get("limit_train"),
        n=count,
        whole=not trained,
    )
    if config.redact_names:
        images = without_files(images)
    size = tuple(images.pixels.shape[1:])
    threat.check_eps(size)
    loaded = build_model(
        source,
        arch=config.arch,
        classes=images.classes,
        input_size=size,
        mean=parse_numbers(config.mean, "mean"),
        std=parse_numbers(config.std, "std"),
    )
    mapped, model, said = fit(loaded, images, config, shared=shared)
    whose = "" if config.data else f", from {Path(spec).name}" if source.meta else ", the default"
    notes = [*said, *notes]
    notes.append(f"data {data_spec}{whose}, split {config.split}: {len(images)} of {images.available} samples")
    if images.note:
        notes.append(images.note)
    sampling, estimates = (SAMPLING_RULE, SHARES) if len(images) < images.available else ("all", WHOLE)
    data = records.Data(
        data_spec, config.split, len(images), images.sha256(), images.available, sampling, images.note,
        list(images.skipped), class_map=mapped, estimates=estimates,
        split_counts=mapped.renumber(list(images.split_counts)) if mapped else list(images.split_counts),
    )  # fmt: skip
    training = read_training(Path(spec), source.meta) if source.meta else None
    return Subject(loaded, renumber(images, mapped, model.classes), threat, data, model, training, notes, images)


def fit(
    loaded: LoadedModel, images: Images, config: SubjectOptions, *, shared: bool = False
) -> tuple[records.ClassMap | None, records.Model, list[str]]:
    """Puts the model on its device and its outputs beside the classes of the data: how they were mapped (None where they
    are the same), the model's record, and what is said of both. shared: --classes may be about another model.

    Raises InputError where a class of the data is no output of the model.
    """
    loaded.model.to(resolve_device(config.device))
    x, _ = images.batch(slice(LOOKED_AT))
    listing = read_listing(config.classes, images.classes) if config.classes else None
    if loaded.classes and listing is None:  # of what is wrong this says most, and needs no pass through the model
        match_classes(images.classes, loaded.classes, len(loaded.classes), model=loaded.name)
    check_images(x[:1], input_size=input_size_of(loaded.model))
    found, taken = fit_to_data(loaded, x, images.classes, listing, shared=shared)
    model = describe_model(loaded.model, loaded.name, loaded.sha256)
    model.classes = list(found.names)
    model.input_size = model.input_size or list(x.shape[1:])
    model.note = "; ".join(filter(None, (taken, sees(loaded.model))))
    mapped = records.ClassMap(list(images.classes), list(found.outputs), found.rule) if found.rule else None
    said = [*loaded.notes, f"model {loaded.name} {sees(loaded.model)}"]
    said += [f"{loaded.name}: {line}" for line in (taken, found.rule) if line]
    return mapped, model, said


def renumber(images: Images, mapped: records.ClassMap | None, names: Sequence[str]) -> Images:
    """The images with the numbers of the model's outputs for labels, and its names for classes."""
    if mapped is None:
        return images
    outputs = torch.tensor(mapped.outputs, device=images.labels.device)
    return dataclasses.replace(images, labels=outputs[images.labels], classes=tuple(names))


def default_out(spec: str, name: str) -> Path:
    """`name` beside the model's file, or in the current folder for a model from code."""
    return Path(spec).parent / name if Path(spec).exists() else Path(name)


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["robustcls", *sys.argv[1:]])


def _threat(source: ModelSource, config: SubjectOptions) -> tuple[ThreatModel, list[str]]:
    """From the flags, else the checkpoint, else the data set's recipe; a radius holds for its own norm alone."""
    known, whose = source.meta.get("threat"), f"from {Path(source.spec).name}"
    if not known:
        data = recipe(config.data or "digits")
        known = {"norm": data.get("norm", "linf"), "eps": parse_eps(data.get("eps", "8/255"))}
        whose = "the usual one for the data"
    norm = config.norm or known["norm"]
    if config.eps is None and norm != known["norm"]:
        raise InputError(f"norm {norm} has no radius here: give --eps, such as --eps 0.5")
    threat = ThreatModel(norm, parse_eps(config.eps) if config.eps is not None else known["eps"])
    return threat, [f"threat {threat}, {whose}" if config.eps is None else f"threat {threat}"]
