"""Training as one function call, which `robustcls.train` and the command `robustcls train` share."""

import copy
import time
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.options import REST, parse_batch_size
from robustcls.data.images import Images, as_images, collect
from robustcls.data.pseudo_labels import PseudoLabels
from robustcls.data.spec import parse_data
from robustcls.data.splits import has_test, hold_out, left_out, load_split, load_training_data
from robustcls.data.unlabelled import divide_labelled, has_unlabelled, load_unlabelled, without_copies, without_labels
from robustcls.models.checkpoint import Arch, arch_name, restore
from robustcls.models.weights import read_file
from robustcls.results.records import Epoch
from robustcls.runtime.device import resolve_batch_size, resolve_device
from robustcls.runtime.world import World, join_world
from robustcls.training.checkpoint import begin_folder, check_new, new_folder, read_last, restore_state
from robustcls.training.config import PYTHON, TrainConfig
from robustcls.training.loop import fit
from robustcls.training.progress import RunBar
from robustcls.training.recipe import adapt, assumed, configure
from robustcls.training.rehearsal import fit_epochs, rehearse
from robustcls.training.run import Run

# Images and labels as tensors or arrays, either together or already split into training and validation images.
Data = Images | tuple[Images, Images] | tuple[Any, ...]


class RunResult:
    """The result of a finished training run.

    Attributes:
        folder: the run folder, with ckpt.pt, last.pt, config.toml and history.jsonl.
        config: the options that the run used.
        history: one Epoch record per epoch.
        best_epoch: the epoch whose weights are in ckpt.pt.
        stopped: why the run ended early, or "".
        remark: how the recipe was changed because there are few images or because training starts from trained weights; or "".
    """

    def __init__(self, run: Run, arch: Arch) -> None:
        self.run, self.arch = run, arch
        self.folder, self.config = run.folder, run.config
        self.history: list[Epoch] = run.state.history
        self.best_epoch, self.stopped, self.remark = run.state.best_epoch, run.state.stopped, run.remark

    def __repr__(self) -> str:
        return f"<RunResult {self.folder}: {len(self.history)} epochs, the best {self.best_epoch}>"

    @cached_property
    def model(self) -> Classifier:
        """The model of ckpt.pt, the best by validation accuracy, in eval mode on the device that it was trained on."""
        path = self.folder / "ckpt.pt"
        arch = copy.deepcopy(self.arch) if isinstance(self.arch, nn.Module) else self.arch
        return restore(read_file(path), str(path), arch)[0].to(self.run.device)


def train(
    config: TrainConfig | None = None,
    *,
    progress: bool = False,
    on_batch: Callable[[Run], object] = lambda run: None,
    on_epoch: Callable[[Epoch], object] = lambda row: None,
    say: Callable[[str], object] = lambda text: None,
    **task: Any,
) -> RunResult:
    """Train a classifier and write its run folder.

    Args:
        config: the options, as returned by `recipe.configure`.
        progress: show progress on stderr.
        on_batch, on_epoch: called after each batch and after each epoch.
        say: called with a message where a threat model or an augmentation had to be assumed for the data.
        task: further arguments of `begin`: a run to resume, or data, an architecture and an inner attack as objects.

    Raises:
        InputError: for options, data or a model that cannot be trained, before anything is written; and as Diverged, when the
            loss or the logits are not finite.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved, and `resume` continues the run.
    """
    with begin(config, **task) as run, RunBar(run, show=progress and run.world.first) as bar:
        if run.assumed and run.world.first:
            say(run.assumed)

        def advance(run: Run) -> None:
            bar.batch(run)
            on_batch(run)

        fit(run, advance, on_epoch)
        return RunResult(run, task.get("arch") or run.config.arch)


def train_from_python(
    data: "str | Data | Iterable[Any] | None",
    arch: Arch | None,
    adv: plugins.AnyPlugin | None,
    options: Mapping[str, Any],
    *,
    resume: str | Path | None,
    progress: bool,
) -> RunResult:
    """Implement `robustcls.train`. Data, architecture and inner attack are specs or objects; options of None are ignored."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    task: dict[str, Any] = {"resume": resume, "world": join_world(), "quiet": True}
    for name, value in (("data", data), ("arch", arch), ("adv", adv)):
        (given if isinstance(value, str) else task)[name] = value
    if task.get("data") is not None and not isinstance(data, tuple | Images):
        task["data"] = collect(data)
    given = {name: value for name, value in given.items() if value is not None}
    if resume:
        if given:
            raise InputError(f"`resume` goes on with the run's own configuration: leave out `{min(given)}`")
        return train(progress=progress, **task)
    for name in {"mean", "std"} & given.keys():
        if not isinstance(given[name], str):
            given[name] = ",".join(map(str, given[name] if isinstance(given[name], Sequence) else [given[name]]))
    if arch is not None:
        given["arch"] = arch_name(arch)
    if adv is not None:
        given["adv"] = attack_name(adv)
    if has_unlabelled(task.get("data")):
        if "unlabelled" in given:
            raise InputError(
                "some labels are -100, which marks images without a label: leave out `unlabelled`, or remove these images"
            )
        given["unlabelled"] = PYTHON
    config = configure({"data": PYTHON if task.get("data") is not None else None, "quiet": True, **given})

    def say(text: str) -> None:
        warnings.warn(text, stacklevel=5)  # where robustcls.train was called

    return train(config, given=given.keys(), progress=progress, say=say, **task)


@contextmanager
def begin(
    config: TrainConfig | None = None,
    *,
    resume: str | Path | None = None,
    data: Data | None = None,
    arch: Arch | None = None,
    adv: plugins.AnyPlugin | None = None,
    given: Container[str] = (),
    inputs: Iterable[str] = (),
    quiet: bool = False,
    world: World | None = None,
    dry_run: bool = False,
    read: tuple[Images, Images] | None = None,
    source: str = "",
) -> Iterator[Run]:
    """Set up a new or a resumed run, ready for `loop.fit`, and lock its folder against other writers.

    Args:
        config: the options of a new run, as returned by `recipe.configure`.
        resume: the folder of a run to resume, instead of config. A process restarted by torchrun resumes without it.
        data: images and labels in place of config.data: float in [0, 1] or uint8, N,C,H,W; and integers N.
        arch: in place of config.arch, a module on [0, 1] pixels, of which a copy is trained, or a function
            (num_classes, input_size) that returns one.
        adv: the inner attack as a function, in place of config.adv.
        given: names of options that the user set and that must not be adapted to the number of images.
        inputs: files that were read and that the run must not overwrite.
        quiet: the value of config.quiet for a resumed run.
        world: the processes that share the run.
        dry_run: write nothing.
        read: the training and validation images of config.data, if they were already read.
        source: the spec that `data` was read from, so that a folder of unlabelled images is decoded in the same way.
    """
    began, world, content = time.perf_counter(), world or World(), None
    folder = _folder(config, resume, world, data=data, arch=arch, adv=adv)
    writes = not dry_run and (not resume or folder.is_dir())
    with world.claim((folder, "`out`"), folder=True) if writes else nullcontext():
        if resume or (world.restarts > 0 and (folder / "last.pt").exists()):
            config, content = read_last(folder)
            config.quiet = quiet
            _check_python(folder, content, data=data, arch=arch, adv=adv)
        else:
            check_new(folder, inputs)
        assert config is not None
        config.quiet = config.quiet or not world.first
        images, val, unlabelled = _load(config, data, read, source)
        remark = "" if content else _adapt(config, given, [images, *([unlabelled] if unlabelled else [])], world)
        objects = tuple(name for name, value in (("data", data), ("arch", arch), ("adv", adv)) if value is not None)
        run = Run(
            config, folder, images, val, world,
            arch=arch, adv=adv, last=content, from_python=objects, unlabelled=unlabelled,
        )  # fmt: skip
        run.remark = remark
        run.assumed = "" if content else assumed(config, given, mirrors=images.flip)
        if content:
            restore_state(run, content)
            run.track_from_here()
        else:
            rehearse(run)
            if config.minutes:
                fit_epochs(run, began)
            if not dry_run:
                begin_folder(run)
        yield run


def _folder(
    config: TrainConfig | None,
    resume: str | Path | None,
    world: World,
    *,
    data: Data | None,
    arch: Arch | None,
    adv: plugins.AnyPlugin | None,
) -> Path:
    """Return the run folder. For a new run, put the names of the Python objects that were passed into the configuration."""
    if resume:
        return Path(resume)
    if config is None:
        raise InputError("there is nothing to train: give a configuration, or a run folder to resume")
    if world.size > 1 and not config.out:
        raise InputError("the processes of torchrun must agree on a run folder: give `out=DIR`")
    config.data = config.data if data is None else PYTHON
    config.arch = config.arch if arch is None else arch_name(arch)
    config.adv = config.adv if adv is None else attack_name(adv)
    return new_folder(config)


def _load(
    config: TrainConfig, data: Data | None, read: tuple[Images, Images] | None, source: str
) -> tuple[Images, Images, Images | None]:
    """Return training and validation images, and the unlabelled images if the configuration asks for them."""
    split: dict[str, Any] = {"seed": config.seed, "limit_train": config.limit_train}
    files: dict[str, Any] = {"data_dir": config.data_dir, "skip_corrupt": config.skip_corrupt}
    others: Images | None = None  # images of `data` without a label, or left out by limit_train
    if data is None:
        train, val = read or load_training_data(config.data or "digits", **split, **files)
    elif isinstance(data, tuple) and all(isinstance(part, Images) for part in data):
        train, val = data
    elif config.unlabelled == PYTHON:
        whole, others = divide_labelled(data, PYTHON)
        train, val = hold_out(whole, **split)
    else:
        whole = as_images(data, PYTHON)
        train, val = hold_out(whole, **split)
        others = left_out(whole, **split)
    if not config.unlabelled:
        return train, val, None
    size = train.pixels.shape[1:]
    source = source if data is not None else config.data or "digits"
    if data is not None and config.unlabelled in (REST, PYTHON):
        if not others:
            raise InputError(
                '`unlabelled="rest"` is what `limit_train` leaves out, and it leaves out no image: pass all images together '
                "and a smaller `limit_train`"
            )
        unlabelled = without_labels(others, train.classes, size)
    else:
        unlabelled = load_unlabelled(config.unlabelled, data=source, classes=train.classes, size=size, **split, **files)
    if config.pseudo_labels:
        unlabelled = PseudoLabels.load(config.pseudo_labels).give(unlabelled)
    return train, val, without_copies(unlabelled, train, val, _tested_on(config, source))


def _tested_on(config: TrainConfig, source: str) -> Images | None:
    """Return the test images of the data set, of which the unlabelled images must contain no copies.

    None where the unlabelled images are the rest of the training images, where the data comes from user code, and where the
    data set has no test split.
    """
    if not source or config.unlabelled == REST or ":" in parse_data(source).name or not has_test(source):
        return None
    return load_split(source, "test", data_dir=config.data_dir, skip_corrupt=config.skip_corrupt)


def _adapt(config: TrainConfig, given: Container[str], sources: Sequence[Images], world: World) -> str:
    """Adapt the batch size and the learning rate to the number of images and to `init`. Return what was changed, or ""."""
    size, device = sources[0].pixels.shape[1:], resolve_device(config.device)
    batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, device)
    return adapt(config, given, sum(map(len, sources)), batch_size, processes=world.size)


def _check_python(folder: Path, content: dict[str, Any], **objects: object) -> None:
    """Check the objects passed to resume a run. Raises InputError where one that the run began with is missing, or where the
    inner attack is another one."""
    missing = [name for name in content["meta"].get("from_python", ()) if objects[name] is None]
    if missing:
        call = ", ".join([f"resume={str(folder)!r}", *(f"{name}=..." for name in missing)])
        raise InputError(
            f"{folder} began in Python with its own {' and '.join(missing)}: resume it there, with robustcls.train({call})"
        )
    if objects["adv"] is None:
        return
    began, now = content["meta"]["config"]["adv"], attack_name(objects["adv"])  # type: ignore[arg-type]
    if "adv" not in content["meta"].get("from_python", ()):
        raise InputError(f"{folder} began with the inner attack {began}: leave out `adv`")
    if began.partition(":")[2] != now.partition(":")[2]:  # a notebook's function may have moved to a module
        raise InputError(f"{folder} began with the inner attack {began}, not {now}: give that one as `adv`")


def attack_name(attack: plugins.AnyPlugin) -> str:
    """The name of an inner attack in the configuration: its spec, or the module and name of a function, with the keyword
    arguments of a partial."""
    if isinstance(attack, str | plugins.Spec):
        return str(attack)
    return str(replace(plugins.parse("attack", attack), name=arch_name(partial(attack).func)))
