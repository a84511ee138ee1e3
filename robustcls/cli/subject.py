"""The model and the samples that a command speaks of."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcls.core import plugins, records
from robustcls.core.balance import SHARES, WHOLE
from robustcls.core.classifier import check_images, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size, parse_n, parse_numbers
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data import recipe
from robustcls.data.images import Images, without_files
from robustcls.data.splits import SAMPLING_RULE, load_split, may_have_trained_on
from robustcls.evaluation.config import SubjectOptions
from robustcls.evaluation.judge import describe_model
from robustcls.models.loading import LoadedModel, ModelSource, build_model, read_model
from robustcls.runtime.device import resolve_device, resolve_precision
from robustcls.training.record import read_training


@dataclass
class Subject:
    loaded: LoadedModel
    images: Images  # the chosen samples, on the CPU
    threat: ThreatModel
    data: records.Data
    model: records.Model
    training: records.Training | None
    notes: list[str]


def load_subject(spec: str, config: SubjectOptions, n: int | str, attacks: Sequence[str]) -> Subject:
    """Takes what the options leave open from the checkpoint, and notes what it took.

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
    data_spec = config.data or source.meta.get("data") or "digits"
    own = source.meta.get("data")
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
    loaded.model.to(device)
    notes = [*loaded.notes, *check_classes(loaded, images), *notes]
    check_images(images.batch(slice(1))[0], input_size=input_size_of(loaded.model))
    whose = "" if config.data else f", from {Path(spec).name}" if source.meta else ", the default"
    notes.append(f"data {data_spec}{whose}, split {config.split}: {len(images)} of {images.available} samples")
    if images.note:
        notes.append(images.note)
    sampling, estimates = (SAMPLING_RULE, SHARES) if len(images) < images.available else ("all", WHOLE)
    data = records.Data(
        data_spec, config.split, len(images), images.sha256(), images.available, sampling, images.note,
        list(images.skipped), estimates, list(images.split_counts),
    )  # fmt: skip
    model = describe_model(loaded.model, loaded.name, loaded.sha256)
    model.classes = model.classes or list(images.classes)
    model.input_size = model.input_size or list(size)
    training = read_training(Path(spec), source.meta) if source.meta else None
    return Subject(loaded, images, threat, data, model, training, notes)


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


def check_classes(loaded: LoadedModel, images: Images) -> list[str]:
    """A note where class names differ. Raises InputError where their number does."""
    have, want = list(loaded.classes), list(images.classes)
    if have and len(have) != len(want):
        raise InputError(
            f"{loaded.name} knows {len(have)} classes ({', '.join(have[:3])} ...), the data has {len(want)} "
            f"({', '.join(want[:3])} ...): name the data that it was trained on with --data"
        )
    return [f"class names differ: {have[0]} ... and {want[0]} ..."] if have and have != want else []
