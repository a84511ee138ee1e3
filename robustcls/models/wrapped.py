"""The models that a user names, before and after they are built, alone or in wrappers."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from robustcls.core import plugins
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.traits import call
from robustcls.core.wrapped import wrapped_name
from robustcls.models.remote import RemoteNet
from robustcls.models.wrappers.coarse import Coarse

TRAINED = ("data", "threat", "seed")  # training metadata that the models of an ensemble should have in common


@dataclass
class ModelSource:
    """A model that a user named, read but not yet built. With a wrapper, the fields describe the first model inside."""

    spec: str
    content: Any = None  # of a checkpoint or PyTorch file; None for models from elsewhere and for several models
    sha256: str = ""  # of the file
    meta: Mapping[str, Any] = field(default_factory=dict)  # metadata of a checkpoint of this package
    twin: "ModelSource | None" = None  # for a service: the model whose gradients attacks use
    wrapper: plugins.Spec | None = None  # the wrapper around the members, if any
    members: Sequence["ModelSource"] = ()

    @property
    def single(self) -> bool:
        """Whether there is exactly one model inside all wrappers."""
        return len(self.members) < 2 and all(one.single for one in self.members)


@dataclass
class LoadedModel:
    """A model ready for use, in eval mode where it came from a file."""

    model: nn.Module
    name: str
    sha256: str = ""
    classes: Sequence[str] = ()  # the model's class names; empty where it has none
    notes: list[str] = field(default_factory=list)  # messages for the user, such as assumptions


def source_in(wrapper: plugins.Spec, members: Sequence[ModelSource]) -> ModelSource:
    """Return the source of a wrapper around models that were read. The meta is that of the first model with metadata.

    Raises InputError for an unknown option of the wrapper, and for several models of which one is a service.
    """
    plugins.resolved("wrapper", wrapper)  # so that a typo is reported at once
    if len(members) == 1:
        return replace(members[0], wrapper=wrapper, members=members)
    for one in members:
        if isinstance(one.content, RemoteNet):
            raise InputError(f"{one.spec} is a service, which is attacked alone: name artefacts or checkpoints instead")
    lead = next((one for one in members if one.meta), members[0])
    digests = [one.sha256 for one in members]
    joint = hashlib.sha256(" ".join(digests).encode()).hexdigest() if all(digests) else ""
    return ModelSource(lead.spec, None, joint, lead.meta, wrapper=wrapper, members=members)


def wrap(source: ModelSource, built: Sequence[LoadedModel], classes: Sequence[str]) -> LoadedModel:
    """Build the wrapper of a source around its built members. Raises InputError.

    classes: those of the data, for models without class names.
    """
    wrapper = source.wrapper
    assert wrapper is not None
    function, models = plugins.load("wrapper", wrapper), [one.model for one in built]
    names = next((tuple(one.classes) for one in built if one.classes), ())
    with as_input_error(f"wrapper {wrapper} failed"):
        own = plugins.is_own("wrapper", wrapper)
        model = function(*models) if own else call(function, *models, classes=names or tuple(classes))
    if not isinstance(model, nn.Module):
        raise InputError(f"wrapper {wrapper} gave {type(model).__name__}: it must return a torch.nn.Module")
    name = wrapped_name([one.name for one in built], wrapper)
    notes = list(dict.fromkeys(line for one in built for line in one.notes))
    notes += [f"{name}: {line}" for line in (*getattr(model, "said", ()), *_differences(source))]
    sha256 = source.sha256 if len(built) > 1 else built[0].sha256
    return LoadedModel(model, name, sha256, model.groups if isinstance(model, Coarse) else names, notes)


def _differences(source: ModelSource) -> list[str]:
    """Return notes where the models of an ensemble were trained with different data, threat models or seeds."""
    notes = []
    for one in source.members if len(source.members) > 1 else ():
        if differ := [key for key in TRAINED if one.meta and one.meta.get(key) != source.meta.get(key)]:
            names = ["/".join(Path(each.spec).parts[-2:]) for each in (one, source)]
            notes.append(
                f"{names[0]} was trained with another {' and '.join(differ)} than {names[1]}, which is followed"
            )
    return notes
