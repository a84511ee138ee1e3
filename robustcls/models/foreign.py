"""Finds the weights and the class names inside a file of another training code."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from torch import Tensor, nn

from robustcls.core.class_map import is_number
from robustcls.core.errors import InputError

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch, anywhere in a name
COUNTERS = ("n_averaged", "total_ops", "total_params", "num_batches_tracked")  # tensors that no forward pass uses
MEANS, STDS = ("mean", "mu", "new_mean", "_mean", "pixel_mean"), ("std", "sigma", "new_std", "_std", "pixel_std")
AVERAGES = ("ema", "avg", "averaged", "average", "swa", "shadow")  # words in the name of an average of the weights
PARENTS = ("model", "module", "net", "backbone")  # what may come before a name that lost its dots
CLASSES = (  # keys of class names
    "classes", "class_names", "classnames", "class_to_idx", "class_to_index", "class2idx", "idx_to_class", "idx2class",
    "index_to_class", "id2label", "label2id", "labels", "label_names", "names", "categories",
)  # fmt: skip
FOLLOWERS = ("optim", "sched", "scaler")  # parts of a file that hold tensors and no weights
DEPTH = 4  # of mappings inside mappings


@dataclass
class Weights:
    """state: by the architecture's names, with what else the file holds there. notes: what was chosen."""

    state: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    mean: list[float] | None = None  # that the file keeps beside the weights
    std: list[float] | None = None
    classes: Sequence[str] = ()  # the names of the outputs; empty where unknown


@dataclass
class _Candidate:
    path: str  # in the file, such as state_dict_ema
    prefix: str  # of its names, such as model.
    state: Mapping[str, Tensor]
    needed: Sequence[str]  # the architecture's names
    shift: str = ""  # what the architecture's names begin with, and the file's do not

    def __post_init__(self) -> None:
        self.covered = sum(self.prefix + key.removeprefix(self.shift) in self.state for key in self.needed)

    @property
    def is_average(self) -> bool:
        return _is_named_average(f"{self.path}.{self.prefix}") or "n_averaged" in self.state

    @property
    def title(self) -> str:
        return _title(self.prefix, self.path) or "its top"

    def own(self, key: str) -> str:
        """The architecture's name of a tensor under the prefix."""
        return self.shift + key.removeprefix(self.prefix)

    def renamed(self) -> dict[str, Tensor]:
        """The tensors under the prefix, by the architecture's names."""
        return {self.own(key): tensor for key, tensor in self.state.items() if key.startswith(self.prefix)}


def find_weights(content: Any, net: nn.Module, name: str) -> Weights:
    """The tensors of a file by the names that a network wants.

    Looked for in every mapping of the file, with every prefix that wrappers put before names (`module.`, `model.`,
    `_orig_mod.`, `backbone.` ...). Of several that fit, an average of the weights is taken, then the shortest name; one of
    the parameters alone takes the buffers of the raw weights, and one that does not fit is said.
    Raises InputError where the file holds no tensors by name.
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
    """The names of the outputs that a file keeps, in the outputs' order, and what to say of them; empty where it has none.

    They are a list of names, or a mapping of names to numbers or of numbers to names, as many as there are outputs.
    outputs: of the head; None where unknown. Raises InputError where the file names them in two ways.
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
            f"{name}: names {len(its)} classes under {at!r}, not its {outputs} outputs" for at, its in found[:1]
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
    """Whether a tensor only counts what training did."""
    return key.rpartition(".")[2] in COUNTERS


def mappings(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping]]:
    """Every mapping in a file, with its place; parts of an optimizer are passed over."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    yield path, content
    for key, value in content.items():
        if not any(word in str(key).lower() for word in FOLLOWERS):
            yield from mappings(value, f"{path}.{key}" if path else str(key), depth + 1)


def _states(content: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, with its place in the file."""
    for path, mapping in mappings(content):
        tensors = {
            ".".join(part for part in str(key).split(".") if part not in WRAPPERS): value
            for key, value in mapping.items()
            if isinstance(value, Tensor)
        }
        if tensors:
            yield path, tensors


def _candidates(path: str, state: dict[str, Tensor], needed: Sequence[str]) -> list[_Candidate]:
    """The mapping under each prefix that turns some of its names into the architecture's, and as it is."""
    prefixes = {""}
    for wanted in needed[:20]:  # some may be of another size or missing, as where training begins from the weights
        prefixes |= {key[: -len(wanted)] for key in state if key.endswith(f".{wanted}")}
    found = [_Candidate(path, prefix, state, needed) for prefix in prefixes]
    if shift := _common_prefix(needed):
        found.append(_Candidate(path, "", state, needed, shift))
    return found


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to and with a dot."""
    head, dot, _ = commonprefix(names).rpartition(".")  # noqa: RUF071  # up to a dot
    return head + dot


def _is_named_average(place: str) -> bool:
    return not set(AVERAGES).isdisjoint(place.lower().replace(".", "_").split("_"))


def _title(*places: str) -> str:
    return " under ".join(repr(place) for place in places if place)


def _average_of_part(
    content: Any, found: Sequence[_Candidate], needed: Sequence[str], buffers: set[str], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """An average of all parameters of the raw weights, found[0], by the network's names, and what is said of it.

    Of an average that lacks one of them, or has it in another shape, nothing is taken.
    """
    raw = found[0].renamed()
    mine = {key: raw[key] for key in raw if key in needed}
    parameters = [key for key in mine if key not in buffers]
    averages = [
        (one.title, one.renamed())
        for one in found[1:]
        if one.is_average
        and one.covered
        # Not one of the network's own parts, as where it has a layer called `avg`.
        and not (one.state is found[0].state and any(key.startswith(found[0].own(one.prefix)) for key in needed))
    ]
    averages += [one for path, state in _states(content) if (one := _undotted(path, state, needed)) is not None]
    averages += _averages_by_order(content, {key: raw[key] for key in parameters})
    for title, average in averages:
        if parameters and all(key in average and average[key].shape == mine[key].shape for key in parameters):
            taken = {key: average[key] for key in mine if key in average and average[key].shape == mine[key].shape}
            rest = [key for key in mine if key not in taken]
            said = f"{name}: the average of the weights, {title}, is taken, not {found[0].title}"
            return taken, [said + (f", but for {len(rest)} buffers that it lacks, such as {rest[0]}" if rest else "")]
    if not averages:
        return {}, []
    title, average = max(averages, key=lambda one: len(one[1]))
    lacking = next((key for key in parameters if key not in average), None)
    why = "its shapes are others" if lacking is None else f"it has no {lacking!r}" if average else "it is not by names"
    return {}, [f"{name}: an average of the weights lies under {title} and is not used, since {why}"]


def _undotted(path: str, state: Mapping[str, Tensor], needed: Sequence[str]) -> tuple[str, dict[str, Tensor]] | None:
    """The average in a mapping that keeps names without their dots, as LitEma does: its place, and it by the names needed.

    None where there is none. Names that are the same with their dots do not count.
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
    """Lists of tensors that are named as an average, such as `shadow_params`: by the names of the parameters, which are in
    the file's order; by none where a shape differs."""
    shapes = [tensor.shape for tensor in parameters.values()]
    for path, mapping in mappings(content):
        for key, values in mapping.items():
            place = f"{path}.{key}" if path else str(key)
            tensors = list(values) if isinstance(values, (list, tuple)) else []
            if tensors and _is_named_average(place) and all(isinstance(one, Tensor) for one in tensors):
                fits = shapes == [one.shape for one in tensors]
                yield repr(place), dict(zip(parameters, tensors, strict=True)) if fits else {}


def _say(best: _Candidate, found: Sequence[_Candidate], name: str) -> list[str]:
    """Which part was taken, where the file holds more than one that fits; and what lies beside it."""
    mine = {key: value for key, value in best.renamed().items() if not is_counter(key) and _normaliser(key) is None}

    def differs(theirs: Mapping[str, Tensor]) -> bool:  # a model that is referred to twice does not
        return any(key not in theirs or not value.equal(theirs[key]) for key, value in mine.items())

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
    """Takes mean and std that lie beside the weights, and are not the architecture's own, out of the state."""
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
    """The name of the std beside a mean that normalises images, and of the mean beside a std; None for other tensors."""
    parent, dot, last = key.rpartition(".")
    partner = dict(zip(MEANS + STDS, STDS + MEANS, strict=True)).get(last)
    return None if partner is None else parent + dot + partner


def _explain(found: Sequence[_Candidate], needed: Sequence[str], name: str) -> None:
    """Raises InputError where it is the names that do not fit, and not the architecture."""
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
    mine, theirs = _common_prefix([key for key in state if not is_counter(key)]), _common_prefix(needed)
    if best == 0 and (mine or theirs):
        raise InputError(
            f"{name}: its weights are named {next(iter(state))!r}, with the prefix {mine!r}, those of `arch` "
            f"{needed[0]!r}: rename them, or give the architecture that the prefix belongs to"
        )


def _in_order(value: Any) -> tuple[str, ...]:
    """Names by number; none where the value is something else."""
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
