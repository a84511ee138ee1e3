"""Finds the weights and the class names in files of other training code."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from torch import Tensor, nn

from robustcls.core.class_map import is_number
from robustcls.core.errors import InputError

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # parts of names, by torch's wrappers
COUNTERS = ("n_averaged", "total_ops", "total_params", "num_batches_tracked")  # tensors that no forward pass uses
MEANS, STDS = ("mean", "mu", "new_mean", "_mean", "pixel_mean"), ("std", "sigma", "new_std", "_std", "pixel_std")
AVERAGES = ("ema", "avg", "averaged", "average", "swa", "shadow")  # words in the names of averaged weights
PARENTS = ("model", "module", "net", "backbone")  # prefixes of names from which the dots were removed
CLASSES = (  # keys of class names
    "classes", "class_names", "classnames", "class_to_idx", "class_to_index", "class2idx", "idx_to_class", "idx2class",
    "index_to_class", "id2label", "label2id", "labels", "label_names", "names", "categories",
)  # fmt: skip
FOLLOWERS = ("optim", "sched", "scaler")  # words in the names of parts that contain tensors but no weights
DEPTH = 4  # levels of nested mappings that are searched


@dataclass
class Weights:
    """The weights found in a file."""

    state: dict[str, Tensor]  # by the architecture's names; may contain further tensors of the file
    notes: list[str] = field(default_factory=list)  # on which part of the file was chosen
    mean: list[float] | None = None  # stored beside the weights
    std: list[float] | None = None
    classes: Sequence[str] = ()  # names of the outputs; empty where unknown


@dataclass
class _Candidate:
    path: str  # place in the file, such as state_dict_ema
    prefix: str  # of the names in the file, such as model.
    state: Mapping[str, Tensor]
    needed: Sequence[str]  # the architecture's names
    shift: str = ""  # prefix of the architecture's names that the names in the file lack

    def __post_init__(self) -> None:
        self.covered = sum(self.prefix + key.removeprefix(self.shift) in self.state for key in self.needed)

    @property
    def is_average(self) -> bool:
        return _is_named_average(f"{self.path}.{self.prefix}") or "n_averaged" in self.state

    @property
    def title(self) -> str:
        return _title(self.prefix, self.path) or "its top"

    def own(self, key: str) -> str:
        """Return the architecture's name of a tensor under the prefix."""
        return self.shift + key.removeprefix(self.prefix)

    def renamed(self) -> dict[str, Tensor]:
        """Return the tensors under the prefix by the architecture's names."""
        return {self.own(key): tensor for key, tensor in self.state.items() if key.startswith(self.prefix)}


def find_weights(content: Any, net: nn.Module, name: str) -> Weights:
    """Return the tensors of a file by the names that a network needs. Raises InputError where the file has no named tensors.

    Every mapping of the file is searched, with every prefix that wrappers put before names (`module.`, `model.`, `_orig_mod.`,
    `backbone.` ...). Of several that fit, averaged weights are preferred, then the shortest name. An average of the parameters
    only is completed with the buffers of the raw weights. A note names an average that does not fit.
    """
    wanted = list(net.state_dict())
    buffers = set(wanted) - {key for key, _ in net.named_parameters(remove_duplicate=False)}
    needed = [key for key in wanted if not is_counter(key)]
    found = [one for path, state in _states(content) for one in _candidates(path, state, needed)]
    if not needed:
        raise InputError(f"{name}: the architecture has no weights to load")
    if not found:
        raise InputError(f"{name} holds no state dict, neither at its top nor inside: save model.state_dict()")
    found.sort(key=lambda one: (-one.covered, not one.is_average, len(one.path), len(one.prefix)))
    best = found[0]
    if best.covered < len(needed):
        _explain(found, needed, name)
    average, said = ({}, []) if best.is_average else _average_of_part(content, found, needed, buffers, name)
    state = (best.renamed() | average).items()
    weights = Weights({key: tensor for key, tensor in state if not is_counter(key) or key in wanted})
    if best.covered == len(needed):
        weights.notes = _say(best, found, name)
        _take_normalisation(weights, best, set(wanted), name)
    weights.notes += said
    return weights


def find_class_names(content: Any, outputs: int | None, name: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the class names in a file, in the order of the outputs, and notes; empty where there are none.

    The names are a list, a mapping from names to numbers, or one from numbers to names, as many as there are outputs.
    outputs: of the head; None where unknown. Raises InputError where the file contains two different lists.
    """
    found = [
        (f"{path}.{key}" if path else str(key), names)
        for path, mapping in mappings(content)
        for key, value in mapping.items()
        if str(key).lower() in CLASSES and (names := _in_order(value))
    ]
    fitting = [one for one in found if outputs is None or len(one[1]) in (outputs, 2 if outputs == 1 else outputs)]
    if not fitting:
        return (), [
            f"{name}: names {len(listed)} classes under {at!r}, not its {outputs} outputs" for at, listed in found[:1]
        ]
    where, names = fitting[0]
    other = next((one for one in fitting if one[1] != names), None)
    if other is not None:
        raise InputError(
            f"{name} names its classes in two ways, under {where!r} and {other[0]!r}: leave one in the file"
        )
    return names, [f"{name}: its class names are those under {where!r}"]


def holds_tensors(content: Any) -> bool:
    return next(_states(content), None) is not None


def is_counter(key: str) -> bool:
    """Whether a tensor is only a counter of training, which no forward pass uses."""
    return key.rpartition(".")[2] in COUNTERS


def mappings(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping]]:
    """Yield every mapping in a file with its place, except the state of optimizers and the like."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    yield path, content
    for key, value in content.items():
        if not any(word in str(key).lower() for word in FOLLOWERS):
            yield from mappings(value, f"{path}.{key}" if path else str(key), depth + 1)


def _states(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping of names to tensors with its place in the file."""
    for path, mapping in mappings(content):
        tensors = {
            ".".join(part for part in str(key).split(".") if part not in WRAPPERS): value
            for key, value in mapping.items()
            if isinstance(value, Tensor)
        }
        if tensors:
            yield path, tensors


def _candidates(path: str, state: dict[str, Tensor], needed: Sequence[str]) -> list[_Candidate]:
    """Return candidates for a mapping: one per prefix whose removal gives names of the architecture, and one without prefix."""
    prefixes = {""}
    for wanted in needed[:20]:  # several, because some names may be missing, as in transfer learning
        prefixes |= {key[: -len(wanted)] for key in state if key.endswith(f".{wanted}")}
    found = [_Candidate(path, prefix, state, needed) for prefix in prefixes]
    if shift := _common_prefix(needed):
        found.append(_Candidate(path, "", state, needed, shift))
    return found


def _common_prefix(names: Sequence[str]) -> str:
    """Return the common beginning of all names, up to and including a dot."""
    head, dot, _ = commonprefix(names).rpartition(".")  # noqa: RUF071  # up to a dot
    return head + dot


def _is_named_average(place: str) -> bool:
    return not set(AVERAGES).isdisjoint(place.lower().replace(".", "_").split("_"))


def _title(*places: str) -> str:
    return " under ".join(repr(place) for place in places if place)


def _average_of_part(
    content: Any, found: Sequence[_Candidate], needed: Sequence[str], buffers: set[str], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return an average of all parameters of the raw weights, found[0], by the network's names, and notes.

    An average that lacks a parameter, or has one in another shape, is not used.
    """
    raw = found[0].renamed()
    present = {key: raw[key] for key in raw if key in needed}
    parameters = [key for key in present if key not in buffers]
    averages = [
        (one.title, one.renamed())
        for one in found[1:]
        if one.is_average
        and one.covered
        # Exclude parts of the network itself, such as a layer called `avg`.
        and not (one.state is found[0].state and any(key.startswith(found[0].own(one.prefix)) for key in needed))
    ]
    averages += [one for path, state in _states(content) if (one := _undotted(path, state, needed)) is not None]
    averages += _averages_by_order(content, {key: raw[key] for key in parameters})
    for title, average in averages:
        fitting = [key for key in present if key in average and average[key].shape == present[key].shape]
        if parameters and set(parameters) <= set(fitting):
            rest = [key for key in present if key not in fitting]
            note = f"{name}: the average of the weights, {title}, is taken, not {found[0].title}"
            note += f", but for {len(rest)} buffers that it lacks, such as {rest[0]}" if rest else ""
            return {key: average[key] for key in fitting}, [note]
    if not averages:
        return {}, []
    title, average = max(averages, key=lambda one: len(one[1]))
    lacking = next((key for key in parameters if key not in average), None)
    why = "its shapes are others" if lacking is None else f"it has no {lacking!r}" if average else "it is not by names"
    return {}, [f"{name}: an average of the weights lies under {title} and is not used, since {why}"]


def _undotted(path: str, state: Mapping[str, Tensor], needed: Sequence[str]) -> tuple[str, dict[str, Tensor]] | None:
    """Return the average in a mapping with names without dots, as in LitEma: its place, and its tensors by the needed names.

    None where there is none. Names that have no dots anyway do not count.
    """
    names = {key.replace(".", ""): key for key in needed if "." in key}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        parent, dot, last = key.rpartition(".")
        bare = [last, *(last.removeprefix(word) for word in PARENTS)]
        name = next((names[one] for one in bare if one in names), None)
        if name is not None and _is_named_average(f"{path}.{parent}"):
            parts.setdefault(parent + dot, {})[name] = tensor
    if not parts:
        return None
    prefix, part = max(parts.items(), key=lambda pair: len(pair[1]))
    return _title(prefix, path), part


def _averages_by_order(content: Any, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield lists of tensors with the name of an average, such as `shadow_params`: the place, and the tensors by the names of
    the parameters, which have the same order in the file; an empty dict where a shape differs."""
    shapes = [tensor.shape for tensor in parameters.values()]
    for path, mapping in mappings(content):
        for key, values in mapping.items():
            place = f"{path}.{key}" if path else str(key)
            tensors = list(values) if isinstance(values, (list, tuple)) else []
            if tensors and _is_named_average(place) and all(isinstance(one, Tensor) for one in tensors):
                fits = shapes == [one.shape for one in tensors]
                yield repr(place), dict(zip(parameters, tensors, strict=True)) if fits else {}


def _say(best: _Candidate, found: Sequence[_Candidate], name: str) -> list[str]:
    """Return notes on which of several fitting parts of the file is used, and on tensors beside it."""
    chosen = {key: value for key, value in best.renamed().items() if not is_counter(key) and _normaliser(key) is None}

    def differs(other: Mapping[str, Tensor]) -> bool:  # False for a second reference to the same model
        return any(key not in other or not value.equal(other[key]) for key, value in chosen.items())

    others = [one for one in found[1:] if one.covered == best.covered and differs(one.renamed())]
    notes = []
    if others or best.is_average:
        what = "the average of the weights, " if best.is_average else ""
        beside = f", not {others[0].title}" if others else ""
        notes.append(f"{name}: {what}{best.title} is taken{beside}")
    parts = (best.prefix, *(one.prefix for one in found if one.prefix))
    left = [key for key in best.state if not key.startswith(parts) and not is_counter(key)]
    left = [key for key in left if _normaliser(key) is None and not _is_named_average(key.rpartition(".")[0])]
    if left:
        notes.append(
            f"{name}: the network is under {best.prefix!r}; {len(left)} tensors beside it not used, such as {left[0]}"
        )
    return notes


def _take_normalisation(weights: Weights, best: _Candidate, wanted: set[str], name: str) -> None:
    """Move mean and std that lie beside the weights, and do not belong to the architecture, from the state to `weights`."""
    values = {}
    for key, tensor in best.state.items():
        if _normaliser(key) is not None and not (key.startswith(best.prefix) and best.own(key) in wanted):
            weights.state.pop(best.own(key), None)
            values[key] = tensor.float().flatten().tolist()
    for key, mean in sorted(values.items(), key=lambda pair: len(pair[0])):
        other = _normaliser(key)
        if other not in values or key.rpartition(".")[2] not in MEANS:
            continue
        std = values[other]
        if len(mean) != len(std) or max(mean) > 1 or min(std) <= 0 or max(std) > 1:
            weights.notes.append(
                f"{name}: {key} and {other} are not for pixels in [0, 1]: left out; give `mean` and `std`"
            )
        else:
            weights.mean, weights.std = mean, std
        return


def _normaliser(key: str) -> str | None:
    """Return, for the name of a mean that normalises images, the name of its std, and vice versa; None for other tensors."""
    parent, dot, last = key.rpartition(".")
    partner = dict(zip(MEANS + STDS, STDS + MEANS, strict=True)).get(last)
    return None if partner is None else parent + dot + partner


def _explain(found: Sequence[_Candidate], needed: Sequence[str], name: str) -> None:
    """Raise InputError where only the names of the weights do not fit, rather than the architecture."""
    state = max((one.state for one in found), key=len)
    homes = Counter(
        key[: -len(wanted)]
        for wanted in needed
        if (key := next((key for key in state if key.endswith(f".{wanted}")), None)) is not None
    )
    best = found[0].covered
    if homes.total() > max(best, len(needed) // 2) and len(homes) > 1:
        parts = " and ".join(repr(prefix) for prefix in sorted(homes)[:3])
        raise InputError(
            f"{name}: the weights lie under several prefixes, {parts}: put them under one, and save that state dict"
        )
    prefix, needed_prefix = _common_prefix([key for key in state if not is_counter(key)]), _common_prefix(needed)
    if best == 0 and (prefix or needed_prefix):
        raise InputError(
            f"{name}: its weights are named {next(iter(state))!r}, with the prefix {prefix!r}, those of `arch` "
            f"{needed[0]!r}: rename them, or give the architecture that the prefix belongs to"
        )


def _in_order(value: Any) -> tuple[str, ...]:
    """Return class names in the order of their numbers; empty where the value is something else."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if all(type(number) is int for number in value.values()):
            pairs = [(number, name) for name, number in pairs]
        if not all(is_number(number) and isinstance(name, str) for number, name in pairs):
            return ()
        ordered = sorted((int(number), name) for number, name in pairs)
        return tuple(name for _, name in ordered) if [n for n, _ in ordered] == list(range(len(ordered))) else ()
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return ()
