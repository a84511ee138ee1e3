"""Finds the weights inside a file of another training code: which of its parts, under which prefix."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from robustcls.core.errors import InputError

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch, anywhere in a name
COUNTERS = ("n_averaged", "total_ops", "total_params", "num_batches_tracked")  # tensors that no forward pass uses
NORMALISERS = (
    ("mean", "std"),
    ("mu", "sigma"),
    ("new_mean", "new_std"),
    ("_mean", "_std"),
    ("pixel_mean", "pixel_std"),
)
AVERAGES = ("ema", "avg", "averaged", "average", "swa", "shadow")  # words in the name of an average of the weights
PARENTS = ("model", "module", "net", "backbone")  # what may come before a name that lost its dots
FOLLOWERS = ("optim", "sched", "scaler")  # parts of a file that hold tensors and no weights
DEPTH = 4  # of mappings inside mappings


@dataclass
class Weights:
    """state: by the architecture's names, with what else the file holds there. notes: what was chosen."""

    state: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    mean: list[float] | None = None  # that the file keeps beside the weights
    std: list[float] | None = None


@dataclass
class _Candidate:
    path: str  # in the file, such as state_dict_ema
    prefix: str  # of its names, such as model.
    state: Mapping[str, Tensor]
    shift: str = ""  # what the architecture's names begin with, and the file's do not
    covered: int = 0  # names of the architecture that it has

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
    state = best.renamed() | average
    for key in [key for key in state if is_counter(key) and key not in wanted]:
        del state[key]
    weights = Weights(state)
    if best.covered == len(needed):
        weights.notes = _say(best, found, name)
        _take_normalisation(weights, best, set(wanted), name)
    weights.notes += said
    return weights


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
        tensors = {_unwrapped(str(key)): value for key, value in mapping.items() if isinstance(value, Tensor)}
        if tensors:
            yield path, tensors


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _candidates(path: str, state: dict[str, Tensor], needed: Sequence[str]) -> list[_Candidate]:
    """The mapping under each prefix that turns some of its names into the architecture's, and as it is."""
    prefixes = {""}
    for wanted in needed[:20]:  # some may be of another size or missing, as where training begins from the weights
        prefixes |= {key[: -len(wanted)] for key in state if key.endswith(f".{wanted}")}
    found = [_Candidate(path, prefix, state) for prefix in prefixes]
    if shift := _common_prefix(needed):
        found.append(_Candidate(path, "", state, shift))
    for one in found:
        one.covered = sum(one.prefix + key.removeprefix(one.shift) in state for key in needed)
    return found


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot."""
    head = names[0].rpartition(".")[0] if names else ""
    while head and not all(name.startswith(f"{head}.") for name in names):
        head = head.rpartition(".")[0]
    return f"{head}." if head else ""


def _is_named_average(place: str) -> bool:
    return any(word in AVERAGES for word in place.lower().replace(".", "_").split("_"))


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
        if one.is_average and one.covered and not _is_inside(one, found[0], needed)
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


def _is_inside(part: _Candidate, whole: _Candidate, needed: Sequence[str]) -> bool:
    """Whether a part is one of the network's own, as where a network has a layer called `avg`."""
    return part.state is whole.state and any(key.startswith(whole.own(part.prefix)) for key in needed)


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
    others = [one for one in found[1:] if one.covered == best.covered and not _same(best, one)]
    notes = []
    if others or best.is_average:
        what = "the average of the weights, " if best.is_average else ""
        beside = f", not {others[0].title}" if others else ""
        notes.append(f"{name}: {what}{best.title} is taken{beside}")
    left = [key for key in best.state if not key.startswith(best.prefix) and not is_counter(key)]
    left = [key for key in left if not any(one.prefix and key.startswith(one.prefix) for one in found)]
    left = [key for key in left if _normaliser(key) is None and not _is_named_average(key.rpartition(".")[0])]
    if left:
        notes.append(
            f"{name}: the network is under {best.prefix!r}; {len(left)} tensors beside it not used, such as {left[0]}"
        )
    return notes


def _same(one: _Candidate, other: _Candidate) -> bool:
    """Whether two parts hold the same weights, as a model that is referred to twice."""
    theirs = other.renamed()
    return all(
        key in theirs and value.equal(theirs[key])
        for key, value in one.renamed().items()
        if not is_counter(key) and _normaliser(key) is None
    )


def _take_normalisation(weights: Weights, best: _Candidate, wanted: set[str], name: str) -> None:
    """Takes mean and std that lie beside the weights, and are not the architecture's own, out of the state."""
    pairs = {}
    for key, tensor in best.state.items():
        place = _normaliser(key)
        if place is not None and not (key.startswith(best.prefix) and best.own(key) in wanted):
            weights.state.pop(best.own(key), None)
            pairs[place] = (key, tensor.float().flatten().tolist())
    for (parent, kind, role), (key, mean) in sorted(pairs.items(), key=lambda pair: len(pair[1][0])):
        if role != 0 or (parent, kind, 1) not in pairs:
            continue
        other, std = pairs[parent, kind, 1]
        if len(mean) != len(std) or max(mean) > 1 or min(std) <= 0 or max(std) > 1:
            said = f"{name}: {key} and {other} are not for pixels in [0, 1]: left out; give `mean` and `std`"
            weights.notes.append(said)
        else:
            weights.mean, weights.std = mean, std
        return


def _normaliser(key: str) -> tuple[str, int, int] | None:
    """(parent, kind, 0 for the mean and 1 for std) of a tensor that normalises images."""
    parent, _, last = key.rpartition(".")
    return next(((parent, kind, pair.index(last)) for kind, pair in enumerate(NORMALISERS) if last in pair), None)


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
