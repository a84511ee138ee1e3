"""Training as one call: what `robustcls.train` and the command do, but for the words."""

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

# Images and labels as tensors or arrays, all in one or split already into training and validation images.
Data = Images | tuple[Images, Images] | tuple[Any, ...]


class RunResult:
    """A run that has ended.

    Attributes:
        folder: holds ckpt.pt, last.pt, config.toml and history.jsonl.
        config: all options, as they were taken.
        history: an Epoch for each pass over the images.
        best_epoch: whose weights ckpt.pt holds.
        stopped: why the run ended early; "" where it did not.
        remark: what was changed of the recipe for so few images, or for weights that are trained already.
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
        """The best by validation, as ckpt.pt holds it, in eval mode on the device of training."""
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
    """Trains a classifier; writes a run folder.

    Args:
        config: the options, as `recipe.configure` makes them.
        progress: show progress on stderr.
        on_batch, on_epoch: are called after each.
        say: told what was assumed of the data.
        task: what else `begin` takes: a run to resume, data, an architecture and an inner attack as objects.

    Raises:
        InputError: for options, data or a model that cannot be trained, before anything is written.
        Interrupted: on Ctrl-C or SIGTERM; the state is saved, and `resume` goes on.
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
    """What `robustcls.train` does. Data, architecture and inner attack are specs or objects; None among the options says
    nothing."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    task: dict[str, Any] = {"resume": resume, "world": join_world(), "quiet": True}
    for name, what in (("data", data), ("arch", arch), ("adv", adv)):
        (given if isinstance(what, str) else task)[name] = what
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
    if adv is not None:
        given["adv"] = attack_name(adv)
    if has_unlabelled(task.get("data")):
        if "unlabelled" in given:
            raise InputError(
                "some labels are -100, for images without a label: leave out `unlabelled`, or these images"
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
    """A run as it is before its first batch, or where it was left, ready for `loop.fit`; nobody else writes to its folder.

    Args:
        config: the options, as `recipe.configure` makes them.
        resume: instead, the folder of a run that goes on; a process that torchrun restarts goes on by itself.
        data: in place of config.data, images and labels: float in [0, 1] or uint8, N,C,H,W, and whole numbers N.
        arch: in place of config.arch, a module on [0, 1] pixels, of which a copy is trained, or a function
            (num_classes, input_size) that makes one.
        adv: in place of config.adv, the inner attack as a function.
        given: names of options that the recipe leaves as they are.
        inputs: files that are read, which the run must not write over.
        quiet: in place of config.quiet, of a run that goes on.
        world: the processes that share the run.
        dry_run: nothing is written.
        read: the training and validation images of config.data, where they are read already.
        source: the spec by which `data` was read, so that a folder of unlabelled images is decoded alike.
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
    """The run's folder; of a new one, the configuration names the objects that were given."""
    if resume:
        return Path(resume)
    if config is None:
        raise InputError("there is nothing to train: give a configuration, or the folder of a run to resume")
    if world.size > 1 and not config.out:
        raise InputError("the processes of torchrun must agree on a run folder: give `out=DIR`")
    config.data = config.data if data is None else PYTHON
    config.arch = config.arch if arch is None else arch_name(arch)
    config.adv = config.adv if adv is None else attack_name(adv)
    return new_folder(config)


def _load(
    config: TrainConfig, data: Data | None, read: tuple[Images, Images] | None, source: str
) -> tuple[Images, Images, Images | None]:
    """Training and validation images, and those without labels, if they are asked for."""
    how: dict[str, Any] = {"seed": config.seed, "limit_train": config.limit_train}
    files: dict[str, Any] = {"data_dir": config.data_dir, "skip_corrupt": config.skip_corrupt}
    others: Images | None = None  # of the data that was given
    if data is None:
        train, val = read or load_training_data(config.data or "digits", **how, **files)
    elif isinstance(data, tuple) and all(isinstance(part, Images) for part in data):
        train, val = data
    elif config.unlabelled == PYTHON:
        whole, others = divide_labelled(data, PYTHON)
        train, val = hold_out(whole, **how)
    else:
        whole = as_images(data, PYTHON)
        train, val = hold_out(whole, **how)
        others = left_out(whole, **how)
    if not config.unlabelled:
        return train, val, None
    size = train.pixels.shape[1:]
    source = source if data is not None else config.data or "digits"
    if data is not None and config.unlabelled in (REST, PYTHON):
        if not others:
            raise InputError(
                '`unlabelled="rest"` is what `limit_train` leaves out: give a smaller one, with all the images'
            )
        unlabelled = without_labels(others, train.classes, size)
    else:
        unlabelled = load_unlabelled(config.unlabelled, data=source, classes=train.classes, size=size, **how, **files)
    if config.pseudo_labels:
        unlabelled = PseudoLabels.load(config.pseudo_labels).give(unlabelled)
    return train, val, without_copies(unlabelled, train, val, _tested_on(config, source))


def _tested_on(config: TrainConfig, source: str) -> Images | None:
    """The test images of the data set, where images without labels come from elsewhere; of code nothing is asked."""
    if not source or config.unlabelled == REST or ":" in parse_data(source).name or not has_test(source):
        return None
    return load_split(source, "test", data_dir=config.data_dir, skip_corrupt=config.skip_corrupt)


def _adapt(config: TrainConfig, given: Container[str], sources: Sequence[Images], world: World) -> str:
    """Fits the recipe to so many images and to `init`, as far as nothing else is given; says what changed."""
    size, device = sources[0].pixels.shape[1:], resolve_device(config.device)
    batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, device)
    return adapt(config, given, sum(map(len, sources)), batch_size, processes=world.size)


def _check_python(folder: Path, content: dict[str, Any], **objects: object) -> None:
    """Raises InputError where a run began with objects that it is not given now, or with another inner attack."""
    missing = [name for name in content["meta"].get("from_python", ()) if objects[name] is None]
    if missing:
        call = ", ".join([f"resume={str(folder)!r}", *(f"{name}=..." for name in missing)])
        raise InputError(
            f"{folder} began in Python with its own {' and '.join(missing)}: go on there, with robustcls.train({call})"
        )
    if objects["adv"] is None:
        return
    began, now = content["meta"]["config"]["adv"], attack_name(objects["adv"])  # type: ignore[arg-type]
    if "adv" not in content["meta"].get("from_python", ()):
        raise InputError(f"{folder} began with the inner attack {began}: leave out `adv`")
    if began.partition(":")[2] != now.partition(":")[2]:  # a notebook's function may have moved to a module
        raise InputError(f"{folder} began with the inner attack {began}, not {now}: give that one as `adv`")


def attack_name(attack: plugins.AnyPlugin) -> str:
    """What a run calls an inner attack: its spec, or module and name of a function, with what a partial gives it."""
    if isinstance(attack, str | plugins.Spec):
        return str(attack)
    return str(replace(plugins.parse("attack", attack), name=arch_name(partial(attack).func)))
