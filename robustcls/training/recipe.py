"""The options of a run: combined from the defaults, the data set's recipe, a file and the user's options, then adapted.

A recipe is meant for the whole data set and for randomly initialised weights. On a few hundred images, its batch size leaves
two updates per epoch, and its learning rate, which was chosen for that batch size, makes training diverge. The same learning
rate also diverges when training starts from trained weights. `adapt` therefore reduces both.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from robustcls.core.config import resolve
from robustcls.core.errors import InputError
from robustcls.data import origin, parse, recipe, tuned_recipe
from robustcls.data.spec import check_named_by_file
from robustcls.models.checkpoint import is_checkpoint
from robustcls.models.transfer import IMAGENET
from robustcls.models.weights import read_file
from robustcls.results.learning import FEW_UPDATES
from robustcls.training.config import PYTHON, TrainConfig

UPDATES = 20  # least number of updates per epoch with a reduced batch size, which is rounded down to a power of two
SMALLEST = 8  # images per batch; with fewer, BatchNorm statistics are mostly noise
USUAL = 128  # the batch size that a learning rate is meant for, where no recipe names one
FINE_TUNING = 0.1  # factor on the learning rate when all weights start from trained values
ADAMW = 0.01  # factor on the learning rate of SGD
# Options with which a tuned recipe is no longer the one that was measured.
NOT_TUNED = {
    "arch", "objective", "adv", "train_eps", "eps_ramp", "step", "optimizer", "init", "norm", "eps", "unlabelled"
}  # fmt: skip


def configure(options: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> TrainConfig:
    """Combine the options by precedence: defaults < recipe of the data set < checkpoint of `init` < file < options.

    A recipe's radius is used only with the recipe's norm. The tuned recipe of a data set is used only if none of the options
    NOT_TUNED is chosen. Raises InputError for options that do not go together.
    """
    options, file = ({k: v for k, v in layer.items() if v is not None} for layer in (options, file or {}))
    taken = of_checkpoint({**file, **options})
    chosen = {**taken, **file, **options}
    defaults = recipe_of(chosen.get("data"))
    if not NOT_TUNED & chosen.keys():
        defaults |= tuned_of(chosen.get("data"))
    if chosen.get("norm") not in (None, defaults.get("norm")):
        defaults.pop("eps", None)
    config = resolve(TrainConfig, defaults, taken, file, options)
    for given in (options, file):
        if given.get("minutes") and "epochs" in given:
            raise InputError(f"`minutes={given['minutes']:g}` chooses the epochs: leave out `epochs`")
    if "epochs" in options and "minutes" not in options:
        config.minutes = 0.0
    adv = chosen.get("adv")
    if adv in (None, "none"):
        return config
    if not config.is_adversarial:
        raise InputError(f'objective {config.objective} makes no attack: leave out `adv="{adv}"`')
    if config.makes_examples:
        raise InputError(f'step {config.step} makes its own adversarial images: leave out `adv="{adv}"`')
    return config


def of_checkpoint(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a checkpoint of this package, given as `init`, brings along.

    These are its architecture, unless that is `module:callable`: a file must not choose which code is run. With `prune` also
    its head, and the data and the threat model that it was trained with. Raises InputError.
    """
    init = options.get("init")
    if not init or init == IMAGENET or not Path(init).is_file():
        return {}
    content = read_file(init)
    if not is_checkpoint(content) or not isinstance(content.get("arch"), str):
        return {}
    inherited, meta = {} if ":" in content["arch"] else {"arch": content["arch"]}, content.get("meta")
    if options.get("prune") and isinstance(meta, Mapping) and isinstance(meta.get("config"), Mapping):
        inherited["head"] = content.get("head", "linear")
        if "data" not in options and meta["config"].get("data") not in (None, PYTHON):
            check_named_by_file(meta["config"]["data"], init)
            inherited |= {name: meta["config"][name] for name in ("data", "data_dir") if meta["config"].get(name)}
        if not {"norm", "eps"} & options.keys():
            inherited |= {name: meta["config"][name] for name in ("norm", "eps") if meta["config"].get(name)}
    return inherited


def recipe_of(data: str | None) -> dict[str, Any]:
    """The recipe of a data set: its default options. Empty for images that are Python objects."""
    return {} if data == PYTHON else recipe(data or "digits")


def tuned_of(data: str | None) -> dict[str, Any]:
    """The tuned recipe of a data set; empty where there is none."""
    return {} if data == PYTHON else tuned_recipe(data or "digits")


def assumed(config: TrainConfig, given: Container[str], *, mirrors: bool) -> str:
    """Return a message about the threat model and augmentation that were assumed for data without a recipe.

    Such data is a folder, user code or images given in Python. "" for data with a recipe, or where both are `given`.
    mirrors: whether the images may be mirrored.
    """
    spec = parse(origin(config.data or ""))
    if not (config.data == PYTHON or ":" in spec.name or spec.args):
        return ""
    assumptions = {}
    if config.is_adversarial and "eps" not in given:
        assumptions["`eps`"] = f"threat model {config.norm}:{config.eps}"
    if "augment" not in given and config.augment != "none":
        effect = f" (shifts {'and mirrors ' if mirrors else ''}images)" if config.augment == "crop_flip" else ""
        assumptions["`augment`"] = f"augmentation {config.augment}{effect}"
    if not assumptions:
        return ""
    return (
        f"this data has no recipe of its own: {' and '.join(assumptions.values())} by default; change it with "
        f"{' and '.join(assumptions)}"
    )


def adapt(config: TrainConfig, given: Container[str], images: int, batch_size: int, *, processes: int = 1) -> str:
    """Adapt the batch size and the learning rate in config, unless they are `given`. Return what was changed and why, or "".

    A batch size that leaves fewer than FEW_UPDATES updates per epoch is reduced. The learning rate is reduced in proportion to
    the batch size (Goyal et al. 2017, arXiv:1706.02677), and further for `init` and for AdamW.

    images: number of training images. batch_size: the resolved batch size of config. processes: those that share a batch.
    """
    changes = []
    if "batch_size" not in given and images // batch_size < FEW_UPDATES:
        smaller = cut(images, config.accumulate * processes)
        if smaller < batch_size:
            config.batch_size = batch_size = smaller
            changes.append(f"batch {batch_size}, for {images // batch_size} updates an epoch")
    if "lr" not in given:
        usual = recipe_of(config.data).get("batch_size", USUAL)
        all_move = config.tune == "all" and config.freeze != "backbone"
        shares = {
            f"{batch_size}/{usual} (batch)": min(1.0, batch_size / usual),
            f"{FINE_TUNING:g} (--init)": FINE_TUNING if all_move and config.init else 1.0,
            f"{ADAMW:g} (AdamW)": ADAMW if config.optimizer == "adamw" else 1.0,
        }
        factors = [words for words, share in shares.items() if share != 1]
        if factors:
            before = config.lr
            for share in shares.values():
                config.lr *= share
            config.lr = float(f"{config.lr:.3g}")
            changes.append(f"lr {config.lr:g} = {' x '.join([f'{before:g}', *factors])}")
    prefix = "fine-tuning on " if config.init else ""
    return f"{prefix}{images} images: {'; '.join(changes)}" if changes else ""


def cut(images: int, parts: int) -> int:
    """A batch size that gives UPDATES updates per epoch or more, but at least SMALLEST, and at least two images per part.

    images: number of training images. parts: number of equal parts that each batch is split into.
    """
    batch = max(SMALLEST, 1 << max(0, (images // UPDATES).bit_length() - 1))
    return max(2 * parts, batch - batch % parts)
