"""The candidates of a choice. Their recipes must agree in the options that make accuracies comparable."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcls.choosing.config import ChooseConfig
from robustcls.core import plugins
from robustcls.core.config import read_toml
from robustcls.core.errors import InputError
from robustcls.core.options import REST
from robustcls.core.threat import parse_eps
from robustcls.training.config import TrainConfig
from robustcls.training.recipe import configure

# Training options that override those of all candidates.
COMMON = (
    "data", "data_dir", "skip_corrupt", "norm", "eps", "adv", "val_attack", "val_n", "limit_train", "device", "precision",
    "batch_size", "seed",
)  # fmt: skip
# Options that must be the same for all candidates; otherwise accuracies are not comparable.
SAME = ("data", "data_dir", "skip_corrupt", "norm", "eps", "val_attack", "val_n", "seed")


@dataclass(frozen=True)
class Candidate:
    """A name, the training options, and the names of the options that the user set, which are not adapted."""

    name: str
    config: TrainConfig
    given: frozenset[str]


def candidates(options: ChooseConfig, given: Mapping[str, Any]) -> list[Candidate]:
    """Return the candidates: the architectures, then the recipes, in the given order.

    given: options that the user set; they override those of a recipe. Raises InputError for candidates that are not
    comparable.
    """
    common = {name: given[name] for name in COMMON if given.get(name) is not None}
    entries = [_candidate(arch, {"arch": arch}, {}, common) for arch in options.arch]
    entries += [_candidate(Path(path).stem, {}, read_toml(path), common) for path in options.config]
    if len(entries) < 2:
        raise InputError("there is nothing to choose: give two candidates or more, each with `arch` or `config`")
    names = [one.name for one in entries]
    specs = [plugins.parse("model", arch) for arch in options.arch]
    keys = [(spec.name, spec.args, dict(spec.options)) for spec in specs]  # the same for all spellings
    repeated = [name for name in names if names.count(name) > 1]
    repeated += [name for name, key in zip(options.arch, keys, strict=True) if keys.count(key) > 1]
    if repeated:
        raise InputError(
            f"two candidates are called {repeated[0]}: name each once, and give each `config` its own file name"
        )
    for one in entries[1:]:
        for name in SAME:
            first, other = _comparable(entries[0].config, name), _comparable(one.config, name)
            if first != other:
                raise InputError(
                    f"{entries[0].name} has {name} {first}, {one.name} {other}: accuracies cannot be compared: give one "
                    f"`{name}` for all"
                )
    for one in entries:
        _check(one, options)
    return entries


def _candidate(name: str, own: Mapping[str, Any], file: Mapping[str, Any], common: Mapping[str, Any]) -> Candidate:
    """Return a candidate without the options that the choice sets itself, such as duration and output."""
    kept = {key: value for key, value in file.items() if key not in ("epochs", "minutes", "out", "quiet", "track")}
    config = configure({**common, **own}, kept)
    config.minutes, config.quiet = 0.0, True
    return Candidate(name, config, frozenset((*common, *own, *kept)))


def _comparable(config: TrainConfig, name: str) -> Any:
    value = getattr(config, name)
    return parse_eps(value) if name == "eps" else value


def _check(candidate: Candidate, options: ChooseConfig) -> None:
    config = candidate.config
    if options.seed_noise and config.unlabelled == REST:
        raise InputError(
            f"{candidate.name} trains on `unlabelled=rest`, which differs with another seed: give `seed_noise=0`"
        )
    if options.learning_curve and config.unlabelled:
        raise InputError(
            f"{candidate.name} trains on `unlabelled` images, but a learning curve varies only labelled images: leave out "
            "`learning_curve`"
        )
