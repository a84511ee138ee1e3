"""The weights inside a file that somebody else's training wrote: which of its parts, under which prefix."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.models.averages import DEPTH, FOLLOWERS, by_order, is_named_average, lists_of_tensors, undotted

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch, anywhere in a name
COUNTERS = ("n_averaged", "total_ops", "total_params", "num_batches_tracked")  # tensors that no forward pass uses
NORMALISERS = (
    ("mean", "std"),
    ("mu", "sigma"),
    ("new_mean", "new_std"),
    ("_mean", "_std"),
    ("pixel_mean", "pixel_std"),
)


@dataclass
class Weights:
    """state: by the architecture's names, with what else lies there. notes: what was chosen among what the file holds."""

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
        return is_named_average(f"{self.path}.{self.prefix}") or "n_averaged" in self.state

    @property
    def title(self) -> str:
        return " under ".join(repr(part) for part in (self.prefix, self.path) if part) or "its top"

    def renamed(self) -> dict[str, Tensor]:
        """The tensors under the prefix, by the architecture's names."""
        return {
            self.shift + key.removeprefix(self.prefix): tensor
            for key, tensor in self.state.items()
            if key.startswith(self.prefix)
        }


def find_weights(content: Any, net: nn.Module, name: str) -> Weights:
    """The tensors of a file by the names that a network wants.

    Looked for in every mapping of the file, with every prefix that wrappers put before names (`module.`, `model.`,
    `_orig_mod.`, `backbone.` ...). Of several that fit an average of the weights is taken, then the shortest name; one of
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
    state = best.renamed()
    average, said = ({}, []) if best.is_average else _average_of_part(content, found, needed, buffers, name)
    state |= average
    weights = Weights({key: value for key, value in state.items() if key in set(wanted) or not is_counter(key)})
    if best.covered == len(needed):
        weights.notes = _say(best, found, name)
        _take_normalisation(weights, best, set(wanted), name)
    weights.notes += said
    return weights


def _average_of_part(
    content: Any, found: Sequence[_Candidate], needed: Sequence[str], buffers: set[str], name: str
) -> tuple[dict[str, Tensor], list[str]]:
    """An average of all parameters of the raw weights, found[0], by the network's names, and what is said of it.

    Of an average that lacks one of them, or has it in another shape, nothing is taken.
    """
    raw = found[0].renamed()
    mine = {key: raw[key] for key in raw if key in needed}
    places = [
        (one.title, one.renamed())
        for one in found[1:]
        if one.is_average and one.covered and not _is_inside(one, found[0], needed)
    ]
    for path, state in _states(content):
        if (part := undotted(path, state, needed)) is not None:
            places.append((" under ".join(map(repr, filter(None, (part[0], path)))), part[1]))
    for path, values in lists_of_tensors(content):
        places.append((repr(path), by_order(values, mine, buffers) or {}))
    parameters = [key for key in mine if key not in buffers]
    for title, average in places:
        if parameters and all(key in average and average[key].shape == mine[key].shape for key in parameters):
            taken = {key: average[key] for key in mine if key in average and average[key].shape == mine[key].shape}
            rest = [key for key in mine if key not in taken]
            said = f"{name}: the average of the weights, {title}, is taken, not {found[0].title}"
            return taken, [said + (f", but for {len(rest)} buffers that it lacks, such as {rest[0]}" if rest else "")]
    if not places:
        return {}, []
    title, average = max(places, key=lambda place: len(place[1]))
    lacking = next((key for key in parameters if key not in average), None)
    why = "its shapes are others" if lacking is None else f"it has no {lacking!r}" if average else "it is not by names"
    return {}, [f"{name}: an average of the weights lies under {title} and is not used, since {why}"]


def _is_inside(part: _Candidate, whole: _Candidate, needed: Sequence[str]) -> bool:
    """Whether a part is one of the network's own, as where a network has a layer called `avg`."""
    own = whole.shift + part.prefix.removeprefix(whole.prefix)
    return part.state is whole.state and any(key.startswith(own) for key in needed)


def holds_tensors(content: Any) -> bool:
    return next(_states(content), None) is not None


def _states(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, with its place in the file; parts of an optimizer are passed over."""
    if not isinstance(content, Mapping) or depth > DEPTH:
        return
    tensors = {_unwrapped(str(key)): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and not any(word in str(key).lower() for word in FOLLOWERS):
            yield from _states(value, f"{path}.{key}" if path else str(key), depth + 1)


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _candidates(path: str, state: dict[str, Tensor], needed: Sequence[str]) -> list[_Candidate]:
    """The mapping under each prefix that turns some of its names into the architecture's, and as it is."""
    prefixes = {""}
    for wanted in needed[:20]:  # some may be of another size or missing, as where training begins from the weights
        prefixes |= {key[: -len(wanted)] for key in state if key.endswith(f".{wanted}")}
    found = [_Candidate(path, prefix, state) for prefix in prefixes]
    shift = _common_prefix(needed)
    if shift:
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
    left = [key for key in left if _normaliser(key) is None and not is_named_average(key.rpartition(".")[0])]
    if left:
        notes.append(
            f"{name}: the network is under {best.prefix!r}; {len(left)} tensors beside it not used, such as {left[0]}"
        )
    return notes


def _same(one: _Candidate, other: _Candidate) -> bool:
    """Whether two parts hold the same weights, as a model that is referred to twice."""
    key = next(iter(key.removeprefix(one.prefix) for key in one.state if key.startswith(one.prefix)))
    return all(
        other.prefix + key.removeprefix(one.prefix) in other.state
        and value.equal(other.state[other.prefix + key.removeprefix(one.prefix)])
        for key, value in one.state.items()
        if key.startswith(one.prefix) and not is_counter(key) and _normaliser(key) is None
    ) and bool(key)


def _take_normalisation(weights: Weights, best: _Candidate, wanted: set[str], name: str) -> None:
    """Takes mean and std that lie beside the weights, and are not the architecture's own, out of the state."""
    pairs = {}
    for key, tensor in best.state.items():
        own = best.shift + key.removeprefix(best.prefix)
        place = _normaliser(key)
        if place is None or (key.startswith(best.prefix) and own in wanted):
            continue
        weights.state.pop(own, None)
        pairs[place] = (key, tensor.float().flatten().tolist())
    for (parent, kind, role), (key, mean) in sorted(pairs.items(), key=lambda pair: len(pair[1][0])):
        other = pairs.get((parent, kind, 1))
        if role != 0 or other is None:
            continue
        std = other[1]
        if len(mean) != len(std) or max(mean) > 1 or min(std) <= 0 or max(std) > 1:
            weights.notes.append(
                f"{name}: {key} and {other[0]} are not for pixels in [0, 1]: left out; give --mean and --std"
            )
        else:
            weights.mean, weights.std = mean, std
        return


def _normaliser(key: str) -> tuple[str, int, int] | None:
    """(parent, kind, 0 for the mean and 1 for std) of a tensor that normalises images."""
    parent, _, last = key.rpartition(".")
    for kind, names in enumerate(NORMALISERS):
        if last in names:
            return parent, kind, names.index(last)
    return None


def is_counter(key: str) -> bool:
    """Whether a tensor only counts what training did."""
    return key.rpartition(".")[2] in COUNTERS


def _explain(found: Sequence[_Candidate], needed: Sequence[str], name: str) -> None:
    """Raises InputError where it is the names that do not fit, and not the architecture."""
    state = max((one.state for one in found), key=len)
    homes: dict[str, int] = {}
    for wanted in needed:
        for key in state:
            if key.endswith(f".{wanted}"):
                homes[key[: -len(wanted)]] = homes.get(key[: -len(wanted)], 0) + 1
                break
    best = found[0].covered
    if sum(homes.values()) > max(best, len(needed) // 2) and len(homes) > 1:
        parts = " and ".join(repr(prefix) for prefix in sorted(homes)[:3])
        raise InputError(
            f"{name}: the weights lie under several prefixes, {parts}: put them under one, and save that state dict"
        )
    mine, theirs = _common_prefix([key for key in state if not is_counter(key)]), _common_prefix(needed)
    if best == 0 and (mine or theirs):
        raise InputError(
            f"{name}: its weights are named {next(iter(state))!r}, with the prefix {mine!r}, those of --arch "
            f"{needed[0]!r}: rename them, or give the architecture that the prefix belongs to"
        )
