"""The options of a run: defaults, the data set's recipe, a file and what is given; and how a recipe is cut to size.

A recipe is for a whole data set and for weights that know nothing. On a few hundred images its batch leaves an epoch two
updates, and its rate, which belongs to that batch, diverges; so it does on weights that are trained already.
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from robustcls.core.config import resolve
from robustcls.core.errors import InputError
from robustcls.data import origin, parse, recipe
from robustcls.data.spec import check_named_by_file
from robustcls.models.checkpoint import is_checkpoint
from robustcls.models.transfer import IMAGENET
from robustcls.models.weights import read_file
from robustcls.results.learning import FEW_UPDATES
from robustcls.training.config import PYTHON, TrainConfig

UPDATES = 20  # an epoch, once the batch is cut, and more: it is a power of two
SMALLEST = 8  # images, of fewer of which BatchNorm's statistics are mostly noise
USUAL = 128  # the batch that a rate is meant for, where no recipe names one
FINE_TUNING = 0.1  # of the rate, where all weights are trained already
ADAMW = 0.01  # of SGD's rate


def configure(options: Mapping[str, Any], file: Mapping[str, Any] | None = None) -> TrainConfig:
    """defaults < recipe of the data set < checkpoint of `init` < file < options; a recipe's radius holds for the recipe's norm
    alone.

    Raises InputError for options that do not go together.
    """
    options, file = ({k: v for k, v in layer.items() if v is not None} for layer in (options, file or {}))
    taken = of_checkpoint({**file, **options})
    chosen = {**taken, **file, **options}
    defaults = recipe_of(chosen.get("data"))
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
    """What a checkpoint of ours brings as `init`: its architecture, but for code of the user's, which no file may choose;
    to be pruned, also its head, and the data and the threat model that it was trained on. Raises InputError."""
    init = options.get("init")
    if not init or init == IMAGENET or not Path(init).is_file():
        return {}
    content = read_file(init)
    if not is_checkpoint(content) or not isinstance(content.get("arch"), str):
        return {}
    brought, meta = {} if ":" in content["arch"] else {"arch": content["arch"]}, content.get("meta")
    if options.get("prune") and isinstance(meta, Mapping) and isinstance(meta.get("config"), Mapping):
        brought["head"] = content.get("head", "linear")
        if "data" not in options and meta["config"].get("data") not in (None, PYTHON):
            check_named_by_file(meta["config"]["data"], init)
            brought |= {name: meta["config"][name] for name in ("data", "data_dir") if meta["config"].get(name)}
        if not {"norm", "eps"} & options.keys():
            brought |= {name: meta["config"][name] for name in ("norm", "eps") if meta["config"].get(name)}
    return brought


def recipe_of(data: str | None) -> dict[str, Any]:
    """The defaults that a data set brings; none for images that were given in Python."""
    return {} if data == PYTHON else recipe(data or "digits")


def assumed(config: TrainConfig, given: Container[str], *, mirrors: bool) -> str:
    """Which threat model and augmentation were taken for data that has no recipe of its own: a folder, code or images of the
    user's. "" where it has one, or both are `given`. mirrors: whether the images may be mirrored."""
    spec = parse(origin(config.data or ""))
    if not (config.data == PYTHON or ":" in spec.name or spec.args):
        return ""
    said = {}
    if config.is_adversarial and "eps" not in given:
        said["`eps`"] = f"threat model {config.norm}:{config.eps}"
    if "augment" not in given and config.augment != "none":
        does = f" (shifts {'and mirrors ' if mirrors else ''}images)" if config.augment == "crop_flip" else ""
        said["`augment`"] = f"augmentation {config.augment}{does}"
    if not said:
        return ""
    return f"this data has no recipe of its own: {' and '.join(said.values())} by default; change it with {' and '.join(said)}"


def adapt(config: TrainConfig, given: Container[str], images: int, batch_size: int, *, processes: int = 1) -> str:
    """Sets the batch size and the learning rate for so many images, unless they are `given`; says what it did and why.

    batch_size: what config's comes to. A batch that leaves an epoch fewer than FEW_UPDATES updates is cut; the rate shrinks
    with the batch (Goyal et al. 2017, arXiv:1706.02677), for `init` and for AdamW. Nothing is said where nothing is done.
    """
    said = []
    if "batch_size" not in given and images // batch_size < FEW_UPDATES:
        smaller = cut(images, config.accumulate * processes)
        if smaller < batch_size:
            config.batch_size = batch_size = smaller
            said.append(f"batch {batch_size}, for {images // batch_size} updates an epoch")
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
            said.append(f"lr {config.lr:g} = {' x '.join([f'{before:g}', *factors])}")
    what = "fine-tuning on " if config.init else ""
    return f"{what}{images} images: {'; '.join(said)}" if said else ""


def cut(images: int, parts: int) -> int:
    """A batch of which an epoch has UPDATES, where it is large enough for that and for equal parts of two images."""
    batch = max(SMALLEST, 1 << max(0, (images // UPDATES).bit_length() - 1))
    return max(2 * parts, batch - batch % parts)
