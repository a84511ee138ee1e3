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
from robustcls.models.checkpoint import build, is_checkpoint, load_weights, read_file, restore, state_dict_of


@dataclass
class ModelSource:
    """What a user named as a model, read but not yet built."""

    spec: str
    content: Any = None  # of the file; None where the model comes from code
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
    """Reads a checkpoint or a state dict; `package.module:callable` waits for `build_model`. Raises InputError."""
    if spec.startswith(("torchvision/", "timm/")) or spec.endswith(".onnx"):
        raise InputError(f"model {spec}: this version takes checkpoints, state dicts and package.module:callable")
    if ":" in spec and not Path(spec).exists():
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
    if source.content is None:
        return _from_callable(source.spec)
    if is_checkpoint(source.content):
        model, _ = restore(source.content, source.spec, trusted=arch)
        name = "/".join(Path(source.spec).parts[-2:])  # all runs call it ckpt.pt: the folder tells them apart
        ignored = [
            f"--{option}"
            for option, value in (("arch", None if arch == model.arch else arch), ("mean", mean), ("std", std))
            if value
        ]
        notes = [f"{name} knows its own: {', '.join(ignored)} not used"] if ignored else []
        return LoadedModel(model, name, source.sha256, model.classes, notes)
    name = Path(source.spec).name
    state = state_dict_of(source.content, source.spec)
    if arch is None:
        raise InputError(f"{source.spec} is a state dict without its architecture: name it with --arch, such as vgg16")
    model = build(arch, classes=classes, input_size=input_size, mean=mean or (0.0,), std=std or (1.0,))
    load_weights(model.net, state, source.spec)
    note = f"{name}: assumed to take [0, 1] pixels; give --mean and --std if it was trained on normalised ones"
    return LoadedModel(model.eval(), name, source.sha256, model.classes, [] if mean or std else [note])


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
