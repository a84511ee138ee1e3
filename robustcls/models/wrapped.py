"""A model that was named, before and after it is built; alone, or in wrappers."""

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

TRAINED = ("data", "threat", "seed")  # what models of an ensemble should have in common


@dataclass
class ModelSource:
    """What a user named as a model, read but not yet built; in wrappers, that of the first model inside."""

    spec: str
    content: Any = None  # of a file of ours or PyTorch's; None where the model comes from elsewhere, or is several
    sha256: str = ""  # of the file
    meta: Mapping[str, Any] = field(default_factory=dict)  # what a checkpoint of ours says of itself
    twin: "ModelSource | None" = None  # of a service, the model whose gradients attacks follow
    wrapper: plugins.Spec | None = None  # around the members, where there is one
    members: Sequence["ModelSource"] = ()

    @property
    def single(self) -> bool:
        """Whether there is one model inside all wrappers."""
        return len(self.members) < 2 and all(one.single for one in self.members)


@dataclass
class LoadedModel:
    """A model ready for use, in eval mode where it came from a file."""

    model: nn.Module
    name: str
    sha256: str = ""
    classes: Sequence[str] = ()  # its own names; empty where it does not say
    notes: list[str] = field(default_factory=list)  # what was assumed


def source_in(wrapper: plugins.Spec, members: Sequence[ModelSource]) -> ModelSource:
    """Models, as they were read, in a wrapper. Of several, what is known of training is that of the first that says so.

    Raises InputError for an option that the wrapper has not, and for several models of which one is a service.
    """
    plugins.resolved("wrapper", wrapper)  # a typo is found at once
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
    """The models of a source's members in its wrapper. classes: of the data, for models without names of their own.

    Raises InputError.
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
    """What is said where the models of an ensemble were not trained alike."""
    said = []
    for one in source.members if len(source.members) > 1 else ():
        if differ := [key for key in TRAINED if one.meta and one.meta.get(key) != source.meta.get(key)]:
            names = ["/".join(Path(each.spec).parts[-2:]) for each in (one, source)]
            said.append(
                f"{names[0]} was trained with another {' and '.join(differ)} than {names[1]}, which is followed"
            )
    return said
