"""Loads every kind of model that `--model` accepts, in three stages.

read_model reads a file and builds nothing. build_model builds the model, when the classes and the image size of the data are
known. fit_to_data finds out which output is which class. `load` combines the first two for the Python API.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.class_map import ClassMap, Listing, match_classes, own_names
from robustcls.core.classifier import Classifier, input_size_of
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.files import sha256
from robustcls.core.gradients import frozen
from robustcls.core.wrapped import Wrapped, read_wrapped
from robustcls.models.artefact import is_artefact, load_artefact, meta_of, notes_of
from robustcls.models.checkpoint import Arch, build, is_checkpoint, load_weights, restore
from robustcls.models.foreign import find_class_names, find_weights, holds_tensors, is_counter
from robustcls.models.heads import head_of
from robustcls.models.onnx.net import hash_onnx, load_onnx
from robustcls.models.remote import RemoteNet, classifier_of_service, is_remote
from robustcls.models.weights import read_file
from robustcls.models.wrapped import LoadedModel as LoadedModel
from robustcls.models.wrapped import ModelSource as ModelSource
from robustcls.models.wrapped import source_in, wrap
from robustcls.models.wrappers.coarse import groups_in
from robustcls.models.zoo import is_zoo, load_pretrained
from robustcls.results.artefact import Manifest
from robustcls.runtime.predict import classifier_of, predict


def load(
    spec: str,
    *,
    arch: Arch | None,
    classes: Sequence[str],
    input_size: Sequence[int] | None,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    twin: str | None = None,
) -> LoadedModel:
    """Load a model without data, as described in `robustcls.load`. Raises InputError."""
    mean, std = _values(mean, "mean"), _values(std, "std")
    source = read_model(spec, twin)
    ours = isinstance(source.content, Manifest | RemoteNet) or is_checkpoint(source.content)
    if input_size is None and not ours and (arch or mean or std) and not is_zoo(source.spec):
        raise InputError(
            f"{spec} does not say which images it takes: give `input_size`, such as `input_size=(3, 32, 32)`"
        )
    size = input_size or (3, 224, 224)  # used where an ONNX file leaves the size open
    loaded = build_model(source, arch=arch, classes=classes, input_size=size, mean=mean, std=std)
    own_size = input_size_of(loaded.model)
    if input_size is not None and own_size is not None and tuple(own_size) != tuple(input_size):
        raise InputError(f"{spec} takes images of {tuple(own_size)}, not of input_size={tuple(input_size)}")
    if classes and groups_in(loaded.model) is None:  # in a coarse wrapper, they name the classes of the model inside
        known = tuple(loaded.classes) if ours else own_names(loaded.classes)
        if known and known != classes:
            one, other = next(pair for pair in zip_longest(known, classes, fillvalue="none") if pair[0] != pair[1])
            raise InputError(
                f"{spec} knows its classes, and has {one!r} where classes say {other!r}: leave classes out"
            )
        _check_count(loaded.model, spec, classes, own_size or input_size)
        if not isinstance(loaded.model, Classifier):  # it may be the user's object, which must not change
            loaded.model = copy.copy(loaded.model)
        loaded.model.classes = classes  # type: ignore[assignment]
    return loaded


def _check_count(model: nn.Module, spec: str, classes: Sequence[str], size: Sequence[int] | None) -> None:
    """Raise InputError where the number of outputs is not the number of class names."""
    if size is None:  # the model cannot be run: guess from the layer that was registered last
        widths = [getattr(module, "out_features", getattr(module, "out_channels", 0)) for module in model.modules()]
        outputs = next((width for width in reversed(widths) if width), 0)
        message = f"{spec} seems to give {outputs} outputs, not {len(classes)}: if that is wrong, give input_size"
    else:
        fitted, _ = classifier_of(model, torch.zeros(1, *size), len(classes))
        outputs = _count_outputs(fitted, torch.zeros(1, *size))
        message = f"{spec} gives {outputs} outputs, {len(classes)} classes were named: name each output"
    if outputs != len(classes):
        raise InputError(message)


def _count_outputs(model: nn.Module, images: Tensor) -> int:
    with frozen(model):
        return predict(model, images, 2).shape[1]


def _values(given: Any, name: str) -> list[float] | None:
    """Return one or several numbers as a list. Raises InputError."""
    if given is None:
        return None
    try:
        return torch.as_tensor(given, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}={given!r} is not a list of numbers: give one, or one per channel") from None


def read_model(spec: str, twin: str | None = None) -> ModelSource:
    """Read the file of a model. Models of a zoo and `package.module:callable` are loaded later, by `build_model`.

    twin: for a service, the model whose gradients attacks use. Raises InputError.
    """
    return _read(read_wrapped(spec), twin)


def _read(named: Wrapped, twin: str | None) -> ModelSource:
    if named.wrapper:
        return source_in(named.wrapper, [_read(one, twin) for one in named.inside])
    spec = named.spec
    if is_remote(spec):
        other = read_model(twin) if twin else None
        if other and isinstance(other.content, RemoteNet):
            raise InputError(f"the twin {twin} is a service, which gives no gradients: name its artefact or checkpoint")
        net = RemoteNet(spec)
        meta = {**(other.meta if other else {}), **({"threat": net.threat} if net.threat else {})}
        return ModelSource(net.url, net, net.sha256, meta, other)
    if twin:
        raise InputError(f"{spec} is not a service and needs no `twin`: leave it out")
    if spec.endswith(".onnx"):
        return ModelSource(spec, sha256=hash_onnx(spec))
    if is_artefact(spec):
        manifest = Manifest.of(spec)
        return ModelSource(spec, manifest, manifest.file.sha256, meta_of(manifest))
    if is_zoo(spec) or (":" in spec and not Path(spec).exists()):
        return ModelSource(spec)
    content = read_file(spec)
    meta = content["meta"] if is_checkpoint(content) and isinstance(content.get("meta"), Mapping) else {}
    return ModelSource(spec, content, sha256(spec), meta)


def build_model(
    source: ModelSource,
    *,
    arch: Arch | None,
    classes: Sequence[str],
    input_size: Sequence[int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedModel:
    """Build the model of a source. Raises InputError.

    arch: the architecture of a state dict. classes, input_size (C, H, W): those of the data, which a state dict and an ONNX
    file may need. mean, std: the normalisation that a state dict, an ONNX file or a user's module was trained with, which is
    put in front of it. Without them no normalisation is assumed, and a note says so.
    """
    if source.wrapper:
        given: dict[str, Any] = {"arch": arch, "classes": classes, "input_size": input_size, "mean": mean, "std": std}
        return wrap(source, [build_model(one, **given) for one in source.members], classes)
    spec, content, name = source.spec, source.content, Path(source.spec).name
    normalisation = {"mean": mean or (0.0,), "std": std or (1.0,)}
    assumed = f"{name}: assumed to take [0, 1] pixels; give `mean` and `std` if it was trained on normalised ones"
    if isinstance(content, RemoteNet):
        return _from_service(content, source.twin, arch=arch, mean=mean, std=std)
    if spec.endswith(".onnx"):
        model = load_onnx(spec, classes=classes, input_size=input_size, **normalisation)
        notes = [*([] if mean or std else [assumed]), *_unused(name, arch=arch)]
        return LoadedModel(model, name, source.sha256, (), notes)
    if isinstance(content, Manifest):
        notes = [*_unused(name, arch=arch, mean=mean, std=std), *notes_of(spec, content)]
        return LoadedModel(load_artefact(spec, content), name, source.sha256, tuple(content.classes), notes)
    if is_zoo(spec):
        model, file = load_pretrained(spec)
        notes = _unused(spec, arch=arch, mean=mean, std=std)
        return LoadedModel(model, spec, sha256(file), own_names(model.classes), notes)
    if content is None:
        return _from_callable(spec, input_size, normalisation if mean or std else None)
    if is_checkpoint(content):
        model, _ = restore(content, spec, trusted=arch)
        name = "/".join(Path(spec).parts[-2:])  # with the run folder, because all runs name the file ckpt.pt
        trusted = arch == model.arch or (":" in model.arch and not isinstance(arch, str))
        notes = _unused(name, arch=None if trusted else arch, mean=mean, std=std)
        return LoadedModel(model, name, source.sha256, model.classes, notes)
    if not holds_tensors(content):
        raise InputError(f"{spec} holds no state dict, neither at its top nor inside: save model.state_dict()")
    if arch is None:
        raise InputError(f"{spec} is a state dict without its architecture: name it with `arch`, such as vgg16")
    make = partial(build, arch, input_size=input_size, mean=normalisation["mean"], std=normalisation["std"])
    loaded = _from_weights(content, name, make, classes, given=bool(mean or std))
    loaded.sha256 = source.sha256
    if not (mean or std or loaded.model.normalises):
        loaded.notes.append(assumed)
    return loaded


def _from_service(net: RemoteNet, twin: ModelSource | None, **options: Any) -> LoadedModel:
    """Return the model of a service. options: arch, mean and std for its twin, which may need them."""
    if twin is None:
        notes = _unused(net.url, **options)
    else:
        other = build_model(twin, classes=net.classes, input_size=net.input_size, **options)
        net.follow(other.model, other.name, own_names(other.classes))
        notes = other.notes
    return LoadedModel(classifier_of_service(net), net.url, net.sha256, net.classes, notes)


def _from_weights(
    content: Any, name: str, make: Callable[..., Classifier], classes: Sequence[str], *, given: bool
) -> LoadedModel:
    """Build a classifier with the weights of other training code, and with as many outputs as these weights have.

    make: builds it for given classes. given: whether the user gave a normalisation; otherwise one that the file contains beside
    the weights is used.
    """
    model = make(classes=classes or _numbered(10))
    weights = find_weights(content, model.net, name)
    outputs = _outputs_of(model, weights.state)
    if outputs is not None and outputs != len(model.classes):
        model = make(classes=_numbered(outputs))
    counters = {key: value for key, value in model.net.state_dict().items() if is_counter(key)}
    load_weights(model.net, counters | weights.state, name)
    if weights.mean is not None and weights.std is not None:
        if given:
            weights.notes.append(f"{name}: the mean and std that it keeps are left out for `mean` and `std`")
        elif len(weights.mean) in (1, model.input_size[0]):
            model.normalise(weights.mean, weights.std)
            weights.notes.append(f"{name}: the mean and std that it keeps beside its weights are put in front")
    names, name_notes = find_class_names(content, _outputs_of(model, model.net.state_dict()), name)
    if len(names) == len(model.classes):
        model.classes = names
    return LoadedModel(model.eval(), name, classes=names, notes=weights.notes + name_notes)


def fit_to_data(
    loaded: LoadedModel, images: Tensor, classes: Sequence[str], listing: Listing | None = None, *, shared: bool = False
) -> tuple[ClassMap, str]:
    """Map the classes of the data to the model's outputs. Return the map, and a note on what is used as logits, or "".

    A model that does not return logits is wrapped in one that does, in place in `loaded`. Raises InputError where a class has
    no output.

    images: some of the data, N,C,H,W. classes: the class names of the data. listing: the content of a file of classes. shared:
    the file may be about another model.
    """
    # A file that lists the numbers of some outputs does not say how many outputs there are.
    expected = len(loaded.classes or (listing.aliases if listing else classes))
    loaded.model, note = classifier_of(loaded.model, images, expected)
    outputs = _count_outputs(loaded.model, images[:2])
    try:
        class_map = map_classes(loaded, classes, outputs, listing, shared=shared)
    except InputError as error:
        raise InputError(f"{error} ({note})" if note else str(error)) from None
    return class_map, note


def map_classes(
    loaded: LoadedModel, classes: Sequence[str], outputs: int, listing: Listing | None = None, *, shared: bool = False
) -> ClassMap:
    """Map classes to outputs as `match_classes` does. Where a wrapper groups the model's classes, map them to the groups."""
    groups = groups_in(loaded.model)
    match = partial(match_classes, classes, model=loaded.name, listing=listing, shared=shared)
    if groups is None or (set(classes) <= set(loaded.classes) and not set(classes) <= groups.keys()):
        return match(loaded.classes, outputs)
    fine = match(tuple(groups), len(groups))
    into = list(groups.values())
    few = ", ".join(loaded.classes[:4]) + (" ..." if len(loaded.classes) > 4 else "")
    rule = f"{len(classes)} classes of the data in {len(loaded.classes)} groups, {few}"
    return ClassMap(
        tuple(into[place] for place in fine.outputs), tuple(loaded.classes), "; ".join(filter(None, (fine.rule, rule)))
    )


def _outputs_of(model: Classifier, state: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of the head in these weights; None where the architecture has no such head."""
    try:
        head, _ = head_of(model.net, len(model.classes))
    except InputError:
        return None
    weight = state.get(f"{head}.weight" if head else "weight")
    return None if weight is None or not weight.ndim else len(weight)


def _numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _unused(name: str, **options: Any) -> list[str]:
    given = ", ".join(f"`{option}`" for option, value in options.items() if value)
    return [f"{name} knows its own: {given} not used"] if given else []


def _from_callable(spec: str, input_size: Sequence[int], normalisation: Mapping[str, Any] | None) -> LoadedModel:
    module, _, attribute = spec.partition(":")
    with as_input_error(f"model {spec} failed"):
        model = plugins.import_dotted("model", module, attribute)
        if not isinstance(model, nn.Module):
            model = model()
    if not isinstance(model, nn.Module):
        raise InputError(f"model {spec} gave {type(model).__name__}: it must return a torch.nn.Module on [0, 1] pixels")
    classes = getattr(model, "classes", ())
    if not isinstance(classes, (tuple, list)) or not all(isinstance(name, str) for name in classes):
        classes = ()  # a user's module may use this attribute for something else
    classes = own_names(classes)
    if normalisation:
        model = Classifier(model, classes=classes, input_size=input_size, arch=spec, **normalisation)
    return LoadedModel(model, spec, classes=classes)
