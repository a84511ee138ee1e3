"""Transfer learning: training that starts from existing weights (Yosinski et al. 2014, arXiv:1411.1792)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustcls.core.class_map import is_number, match_classes, own_names
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import is_checkpoint, take_pruned
from robustcls.models.foreign import Weights, find_class_names, find_weights
from robustcls.models.heads import Head, head_of
from robustcls.models.weights import read_file
from robustcls.models.zoo import is_zoo, load_pretrained
from robustcls.runtime.fused import own_tensors
from robustcls.runtime.low_rank import plain_parameters

IMAGENET = "imagenet"
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)  # layers with weight matrices or kernels


def initialise(model: Classifier, init: str) -> str:
    """Load every weight that fits by name and shape, and the normalisation that belongs to them. Return what was loaded.

    A head of another shape keeps its random weights. A pruned checkpoint makes the model's layers as narrow as its own. Call
    this before anything copies the model.

    init: `imagenet`, for the default weights of the zoo that model.arch names, or the path of a checkpoint, a state dict or a
    .safetensors file. Raises InputError where fewer than half of the backbone's tensors fit.
    """
    read = _read(init, model)
    wanted = model.net.state_dict()
    state = dict(read.state)
    head, module = head_of(model.net, len(model.classes))
    last = f"{head}.{len(module) - 1}" if isinstance(module, Head) else head
    about_head = _order_head(model, init, state, read.classes, [key for key in wanted if _is_in(last, key)])
    fits = {key for key, tensor in wanted.items() if key in state and state[key].shape == tensor.shape}
    backbone = [key for key in wanted if not _is_in(head, key)]
    misfits = [key for key in backbone if key not in fits]
    if 2 * len(misfits) > len(backbone):
        first = misfits[0]
        have = f"is {tuple(state[first].shape)} there" if first in state else "is not there"
        raise InputError(
            f"{init} is of another architecture than {model.arch}: {len(backbone) - len(misfits)} of "
            f"{len(backbone)} tensors fit, and {first!r}, here {tuple(wanted[first].shape)}, {have}: give its `arch`"
        )
    new_head = any(_is_in(head, key) and key not in fits for key in wanted)
    taken = [key for key in fits if not (new_head and _is_in(head, key))]  # half a head is none
    model.net.load_state_dict({key: state[key] for key in taken}, strict=False)
    mean, std = read.mean or (), read.std or ()
    if {len(mean), len(std)} <= {1, model.input_size[0]}:  # unless they are for RGB and the images are grey
        model.normalise(mean, std)
    left = [key for key in state if key not in wanted and not _is_in(head, key)]
    counts = [f"{len(taken)} of {len(wanted)} tensors taken"]
    counts += [f"{len(misfits)} of the backbone not, such as {misfits[0]}"] if misfits else []
    counts += [f"{len(left)} without a place here, such as {left[0]}"] if left else []
    head_used = f"new head{about_head}" if new_head else f"with its head{about_head}"
    return "; ".join([f"{init}: {', '.join(counts)}, {head_used}", *read.notes])


def freeze(model: Classifier, what: str) -> list[nn.Module]:
    """Freeze `none`, the `backbone` (everything except the head) or the first N layers. Return the frozen modules.

    A layer is a module with tensors of its own; layers are counted in the order of registration. Use `keep_frozen_in_eval` to
    keep the statistics of frozen BatchNorms. Raises InputError.
    """
    layers = [module for module in model.net.modules() if own_tensors(module)]
    if what == "none":
        chosen = []
    elif what == "backbone":
        spared = set(head_of(model.net, len(model.classes))[1].modules())
        chosen = [layer for layer in layers if layer not in spared]
    elif is_number(what) and int(what) < len(layers):
        chosen = layers[: int(what)]
    else:
        raise InputError(
            f"cannot freeze {what!r}: give none, backbone or a number of layers, {len(layers) - 1} at most"
        )
    for layer in chosen:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(False)
    return chosen


@dataclass(frozen=True)
class Tuned:
    """Which parameters of a model are trained, by a spec such as `lora(rank=4)`."""

    spec: str
    trained: int  # number of trained parameters, including added ones
    parameters: int  # number of parameters of the saved model
    layers: tuple[str, ...]  # layers with trained parameters

    def __str__(self) -> str:
        names = ", ".join([*self.layers[:2], "...", self.layers[-1]] if len(self.layers) > 3 else self.layers)
        layers = f"{len(self.layers)} layer{'s' * (len(self.layers) > 1)}"
        share = f"{self.trained:,} parameters are trained, {self.trained / self.parameters:.1%} of {self.parameters:,}"
        return f"{self.spec}: {share}, in {layers}: {names}"


def tuned(model: Classifier, spec: str) -> Tuned:
    """Return the record of the parameters that are trained after the spec was applied."""
    free = {name: p.numel() for name, p in model.net.named_parameters() if p.requires_grad}
    layers = tuple(dict.fromkeys(name.rpartition(".")[0].partition(".parametrizations")[0] for name in free))
    return Tuned(spec, sum(free.values()), sum(p.numel() for p in plain_parameters(model).values()), layers)


def keep_frozen_in_eval(modules: Iterable[nn.Module]) -> None:
    """Put frozen modules in eval mode, so that their BatchNorms use and keep their statistics. Call it after model.train().

    Submodules are not changed: a module that has a frozen tensor may also contain the head.
    """
    for module in modules:
        module.training = False


def parameter_groups(
    model: Classifier, *, lr: float, weight_decay: float, backbone_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Return the parameter groups of an optimizer. Weight decay is applied only to weights of convolutions and linear layers.

    backbone_lr: factor on lr for everything except the head. A group's `lr_scale` is its factor on lr, which the schedule
    keeps. Raises InputError.
    """
    if not 0 < backbone_lr < float("inf"):
        raise InputError(f"backbone_lr {backbone_lr} is not a factor of lr: give a number above 0, such as 0.1")
    decayed = {module.weight for module in model.modules() if isinstance(module, LAYERS)}
    head = set(head_of(model.net, len(model.classes))[1].parameters()) if backbone_lr != 1 else set(model.parameters())
    groups: dict[tuple[bool, bool], dict[str, Any]] = {
        (in_head, decays): {
            "params": [],
            "weight_decay": weight_decay if decays else 0.0,
            "lr": lr * (1.0 if in_head else backbone_lr),
            "lr_scale": 1.0 if in_head else backbone_lr,
        }
        for in_head in (False, True)
        for decays in (True, False)
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter in head, parameter in decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _read(init: str, model: Classifier) -> Weights:
    if init == IMAGENET:
        if not is_zoo(model.arch):
            raise InputError(
                f"{model.arch} has no ImageNet weights: take a torchvision/ or timm/ architecture, or give a file"
            )
        pretrained, _ = load_pretrained(model.arch)
        mean, std = pretrained.mean.flatten().tolist(), pretrained.std.flatten().tolist()
        return Weights(pretrained.net.state_dict(), [], mean, std, own_names(pretrained.classes))
    content, name = read_file(init), Path(init).name
    if is_checkpoint(content):
        try:
            _take_pruned_backbone(model, content, init)
            return Weights(content["state_dict"], [], content["mean"], content["std"], content["classes"])
        except KeyError as error:
            raise InputError(f"{init} lacks {error}: it is damaged or of another version") from None
    weights = find_weights(content, model.net, name)
    weights.classes, name_notes = find_class_names(content, len(model.classes), name)
    weights.notes += name_notes if weights.classes else []
    return weights


def _take_pruned_backbone(model: Classifier, content: Mapping[str, Any], init: str) -> None:
    """Give all layers except the head the widths of a pruned checkpoint, and the head the matching number of inputs."""
    if "shapes" not in content or not isinstance(content["shapes"], Mapping):
        return take_pruned(model, content, init)
    head, module = head_of(model.net, len(model.classes))
    name, first = (f"{head}.0", module[0]) if isinstance(module, Head) else (head, module)
    state = {key: tensor for key, tensor in content["state_dict"].items() if not _is_in(head, key)}
    shapes = {layer: widths for layer, widths in content["shapes"].items() if not _is_in(head, f"{layer}.")}
    weight = next((content["state_dict"][key] for key in _first_weights(head) if key in content["state_dict"]), None)
    before: Any = first.weight
    if isinstance(weight, Tensor) and weight.ndim == before.ndim:
        state[f"{name}.weight"] = before[:, : weight.shape[1]]
        shapes[name] = {"in_features" if isinstance(first, nn.Linear) else "in_channels": weight.shape[1]}
    take_pruned(model, {**content, "state_dict": state, "shapes": shapes}, init)
    if first.weight is not before:
        first.reset_parameters()  # type: ignore[operator]


def _first_weights(head: str) -> tuple[str, str]:
    """Return the possible names of the weight of the head's first layer: in a head of several layers, and of one."""
    return f"{head}.0.weight", f"{head}.weight"


def _order_head(
    model: Classifier, init: str, state: dict[str, Tensor], known: Sequence[str], layer: Sequence[str]
) -> str:
    """Reorder the rows of the last layer in `state` to the order of the model's classes, or remove them for other classes.

    Return what was done, as an addition to the message. layer: the names of the layer's tensors.
    """
    count = len(model.classes)
    rows = [key for key in layer if key in state and state[key].ndim and len(state[key]) == count]
    if not rows or list(known) == list(model.classes):
        return ""
    try:
        class_map = match_classes(model.classes, known, count, model=init)
    except InputError:
        for key in rows:
            del state[key]
        return f", since its classes are others ({known[0]} ...)" if known else ", since its classes are not known"
    if not class_map.moves_labels:
        return "" if known else ", its outputs taken in the data's order"
    for key in rows:
        state[key] = state[key][list(class_map.outputs)]
    return ", its rows put in the order of the data's classes"


def _is_in(module: str, key: str) -> bool:
    return not module or key.startswith(f"{module}.")
