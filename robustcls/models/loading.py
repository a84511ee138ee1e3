"""From what a user names as a model to a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.models.checkpoint import build, is_checkpoint, load_weights, restore, state_dict_of
from robustcls.models.heads import LINEAR
from robustcls.models.onnx import hash_onnx, load_onnx
from robustcls.models.weights import read_file
from robustcls.models.zoo import is_zoo, load_pretrained


@dataclass
class ModelSource:
    """What a user named as a model, read but not yet built."""

    spec: str
    content: Any = None  # of a file of ours or PyTorch's; None where the model comes from elsewhere
    sha256: str = ""  # of the file
    meta: Mapping[str, Any] = field(default_factory=dict)  # what a checkpoint of ours says of itself


@dataclass
class LoadedModel:
    """A model ready for use, in eval mode where it came from a file."""

    model: nn.Module
    name: str
    sha256: str = ""
    classes: Sequence[str] = ()  # empty where it does not say
    notes: list[str] = field(default_factory=list)  # what was assumed


def load(path: str | Path) -> Classifier:
    """The classifier of a checkpoint of ours: pixels in [0, 1] to logits, in eval mode. Raises InputError."""
    content = read_file(path)
    if not is_checkpoint(content):
        raise InputError(f"{path} is not a checkpoint of robustcls: foreign weights go with --model and --arch")
    return restore(content, str(path))[0]


def read_model(spec: str) -> ModelSource:
    """Reads a checkpoint or a state dict; a zoo's model and `package.module:callable` wait for `build_model`.

    Raises InputError.
    """
    if spec.endswith(".onnx"):
        return ModelSource(spec, sha256=hash_onnx(spec))
    if is_zoo(spec) or (":" in spec and not Path(spec).exists()):
        return ModelSource(spec)
    content = read_file(spec)
    meta = content["meta"] if is_checkpoint(content) and isinstance(content.get("meta"), Mapping) else {}
    return ModelSource(spec, content, sha256(spec), meta)


def build_model(
    source: ModelSource,
    *,
    arch: str | None,
    classes: Sequence[str],
    input_size: Sequence[int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedModel:
    """The model of a source. A state dict takes arch (a spec), and classes and input_size (C, H, W) from the data.

    mean, std: the normalisation that foreign weights were trained with; none is assumed, and said, without them.
    """
    normalisation = {"mean": mean or (0.0,), "std": std or (1.0,)}
    name = Path(source.spec).name
    note = f"{name}: assumed to take [0, 1] pixels; give --mean and --std if it was trained on normalised ones"
    notes = [] if mean or std else [note]
    if source.spec.endswith(".onnx"):
        model = load_onnx(source.spec, classes=classes, input_size=input_size, **normalisation)
        return LoadedModel(model, name, source.sha256, model.classes, notes + _unused(name, arch=arch))
    if is_zoo(source.spec):
        model, file = load_pretrained(source.spec)
        notes = _unused(source.spec, arch=arch, mean=mean, std=std)
        return LoadedModel(model, source.spec, sha256(file), model.classes, notes)
    if source.content is None:
        return _from_callable(source.spec)
    if is_checkpoint(source.content):
        model, _ = restore(source.content, source.spec, trusted=arch)
        name = "/".join(Path(source.spec).parts[-2:])  # all runs call it ckpt.pt: the folder tells them apart
        notes = _unused(name, arch=None if arch == model.arch else arch, mean=mean, std=std)
        return LoadedModel(model, name, source.sha256, model.classes, notes)
    state = state_dict_of(source.content, source.spec)
    if arch is None:
        raise InputError(f"{source.spec} is a state dict without its architecture: name it with --arch, such as vgg16")
    model = build(arch, classes=classes, input_size=input_size, head=LINEAR, **normalisation)
    load_weights(model.net, state, source.spec)
    return LoadedModel(model.eval(), name, source.sha256, model.classes, notes)


def _unused(name: str, **options: Any) -> list[str]:
    given = ", ".join(f"--{option}" for option, value in options.items() if value)
    return [f"{name} knows its own: {given} not used"] if given else []


def _from_callable(spec: str) -> LoadedModel:
    module, _, attribute = spec.partition(":")
    try:
        model = plugins.import_dotted("model", module, attribute)
        if not isinstance(model, nn.Module):
            model = model()
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"model {spec} failed: {reason}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {spec} gave {type(model).__name__}: it must return a torch.nn.Module on [0, 1] pixels")
    return LoadedModel(model, spec, classes=tuple(getattr(model, "classes", ())))
