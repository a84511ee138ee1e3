"""`robustcls train`."""

import shlex
import time
from collections.abc import Container, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from robustcls.cli.console import note, wrap
from robustcls.cli.options import config_option, options
from robustcls.core.config import read_toml, resolve
from robustcls.core.errors import InputError
from robustcls.core.progress import Bar, duration
from robustcls.training.config import TrainConfig


@click.command("train")
@click.option("--resume", metavar="RUN", help="Go on with this run folder; it knows its configuration.")
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved configuration, cost and time of an epoch; train nothing."
)
@config_option
@options(TrainConfig)
def command(flags: dict, config_file: str | None, resume: str | None, dry_run: bool) -> int:
    """Train a classifier, adversarially or not; write a run folder.

    The folder holds ckpt.pt (the best by validation), last.pt (for --resume), config.toml and history.jsonl. What is not
    given comes from the recipe of the data set, and else is the default below. On few images and with --init the batch and
    the learning rate are cut, which the header says; --lr and --batch-size are taken as they are.

    Under torchrun the processes share each batch; a restart goes on by itself.

    \b
      robustcls train                  # VGG16 on digits with PGD
      robustcls train --adv none       # the same without an attack
      robustcls train --objective "trades(beta=6)" --step awp --ema 0.995
      robustcls train --step "free(replays=4)" --epochs 5
      robustcls train --data cifar10 --adv "pgd(steps=3)" --eps 8/255 --epochs 40
      robustcls train --data cifar10 --adv n_fgsm --minutes 10
      robustcls train --data folder:images --val-attack none
      robustcls train --data folder:images --arch torchvision/resnet18 \\
          --init imagenet --freeze backbone --head 512-relu-K
      robustcls train --config trades.toml --dry-run
      robustcls train --resume runs/digits-vgg16-pgd-20260101-120000
      torchrun --nproc-per-node 2 -m robustcls train --out runs/two
    """
    from robustcls.runtime.device import keep_freed_memory
    from robustcls.runtime.world import join_world
    from robustcls.training.checkpoint import check_new, new_folder, read_last

    began = time.perf_counter()
    keep_freed_memory()
    world = join_world()
    config, given = None, set[str]()
    if resume:
        if flags.keys() - {"quiet"} or config_file:
            name = min(flags.keys() - {"quiet"}, default="config").replace("_", "-")
            raise click.UsageError(f"--resume goes on with the run's own configuration: leave out --{name}")
        folder = Path(resume)
    else:
        file = read_toml(config_file) if config_file else {}
        config = configure(flags, file)
        given = {name for name, value in (*file.items(), *flags.items()) if value is not None}
        if world.size > 1 and not config.out:
            raise click.UsageError("the processes of torchrun must agree on a run folder: give --out DIR")
        folder = new_folder(config)
    writes = not dry_run and (not resume or folder.is_dir())
    with world.claim((folder, "--out"), folder=True) if writes else nullcontext():
        restarted = world.restarts > 0 and (folder / "last.pt").exists()
        content = None
        if resume or restarted:
            config, content = read_last(folder)
            config.quiet = bool(flags.get("quiet"))
        else:
            check_new(folder, [config_file] if config_file else [])
        assert config is not None
        return work(config, folder, content, world, given=given, dry_run=dry_run, began=began)


def work(
    config: TrainConfig,
    folder: Path,
    content: dict[str, Any] | None,
    world,
    *,
    given: Container[str],
    dry_run: bool,
    began: float,
) -> int:
    """Trains in the folder, on from the content of its last.pt, or only estimates; the exit status.

    given: the options that the user chose, which stay as they are.
    """
    from robustcls.data.splits import load_training_data
    from robustcls.runtime.device import search_for_fastest_convolutions
    from robustcls.training.checkpoint import begin_folder, restore_state
    from robustcls.training.epoch import rehearse
    from robustcls.training.estimate import fit_epochs
    from robustcls.training.loop import Interrupted, train
    from robustcls.training.run import Run

    config.quiet = config.quiet or not world.first
    training, validation = load_training_data(
        config.data or "digits",
        seed=config.seed,
        data_dir=config.data_dir,
        skip_corrupt=config.skip_corrupt,
        limit_train=config.limit_train,
    )
    remark = adapt_to(config, given, training, world) if content is None else ""
    if not config.deterministic:
        search_for_fastest_convolutions()
    run = Run(config, folder, training, validation, world, resumed=content is not None)
    if content:
        restore_state(run, content)
    else:
        rehearse(run)
        if config.minutes:
            fit_epochs(run, began)
    if dry_run:
        estimated = estimate(run, remark)  # by all processes
        if world.first:
            click.echo(estimated)
        return 0
    if not content:
        begin_folder(run, remark)
    note(describe(run, remark), config.quiet)
    if run.epoch >= config.epochs or run.stopped:
        note(f"{folder} is finished: {run.stopped or f'{config.epochs} of {config.epochs} epochs'}", config.quiet)
        return 0
    with Progress(run) as progress:
        try:
            train(run, progress.batch, progress.epoch)
        except Interrupted:
            progress.close()
            if world.first:
                click.echo(
                    f"interrupted and saved; go on with: robustcls train --resume {shlex.quote(str(folder))}", err=True
                )
            return 130
    if world.first:
        conclude(run)
    return 0


def adapt_to(config: TrainConfig, given: Container[str], training, world) -> str:
    """Fits the recipe to so many images and to --init, as far as nothing else is given; says what changed."""
    from robustcls.core.options import parse_batch_size
    from robustcls.runtime.device import resolve_batch_size, resolve_device
    from robustcls.training.recipe import adapt

    size = training.pixels.shape[1:]
    batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, resolve_device(config.device))
    return adapt(config, given, len(training), batch_size, processes=world.size)


def conclude(run) -> None:
    """Says what came of a run that is finished."""
    from robustcls.results.learning import at_chance, few_updates, first_rise
    from robustcls.results.overfitting import robust_overfitting

    best = next(row for row in reversed(run.history) if row.epoch == run.best_epoch)
    adversarial = run.config.is_adversarial
    warnings = [
        run.stopped and f"stopped: {run.stopped}",
        few_updates(run.num_batches, run.config.epochs),
        first_rise(run.history),
        at_chance(run.history, run.chance, adversarial=adversarial),
        adversarial and robust_overfitting(run.history, run.chance),
    ]
    for warning in filter(None, warnings):
        click.echo(wrap(f"{warning}"))
    robust = "not measured" if best.val_robust is None else _share(best.val_robust)
    click.echo(f"best epoch {best.epoch}: clean {_share(best.val_clean)}, robust {robust}")
    click.echo(wrap(f"by {run.selected_by}"))
    click.echo(f"{run.folder / 'ckpt.pt'}")
    if not run.config.quiet:
        click.echo(f"next: {attack_command(run)}", err=True)  # in one line, to be copied


def attack_command(run) -> str:
    """The command that judges what was trained, as a shell takes it."""
    from robustcls.data.splits import has_test

    words = ["robustcls", "attack", "--model", str(run.folder / "ckpt.pt")]
    words += ["--arch", run.config.arch] if ":" in run.config.arch else []
    return shlex.join(words if has_test(run.config.data or "digits") else [*words, "--split", "val"])


def estimate(run, remark: str = "") -> str:
    """The resolved configuration as TOML, and in its comments what an epoch would cost."""
    from robustcls.core.config import to_toml
    from robustcls.training.estimate import measure_cost

    cost = measure_cost(run)
    lines = [
        f"parameters      {cost.parameters:,}, {cost.trained:,} of them trained",
        f"forward         {cost.forward_flops / 1e6:,.1f} MFLOP an image",
        f"update          {cost.update_flops / 1e6:,.1f} MFLOP an image, attack included",
        f"speed           {cost.images_per_second:,.0f} img/s, median of {cost.timed} updates",
        f"epoch           {duration(cost.epoch_seconds)}, of which validation {duration(cost.val_seconds)}",
        f"run             {duration(cost.epoch_seconds * run.config.epochs)}, {run.config.epochs} epochs",
        f"peak memory     {cost.peak_memory_mb:,.0f} MB",
    ]
    return to_toml(run.config) + "\n" + "".join(f"# {line}\n" for line in [*describe(run, remark).splitlines(), *lines])


def configure(flags: Mapping[str, Any], file: Mapping[str, Any]) -> TrainConfig:
    """defaults < recipe of the data set < file < flags; a recipe's radius holds for the recipe's norm alone."""
    from robustcls.data import recipe

    chosen = {**file, **flags}
    defaults = recipe(chosen.get("data") or "digits")
    if chosen.get("norm") not in (None, defaults.get("norm")):
        defaults.pop("eps", None)
    config = resolve(TrainConfig, defaults, file, flags)
    for given in (flags, file):
        if given.get("minutes") and "epochs" in given:
            raise InputError(f"--minutes {given['minutes']:g} chooses the epochs: leave out --epochs")
    if "epochs" in flags and "minutes" not in flags:
        config.minutes = 0.0
    if not config.is_adversarial and chosen.get("adv") not in (None, "none"):
        raise InputError(f"objective {config.objective} makes no attack: leave out --adv {chosen['adv']}")
    if config.makes_examples and chosen.get("adv") not in (None, "none"):
        raise InputError(f"step {config.step} makes its own adversarial images: leave out --adv {chosen['adv']}")
    return config


def describe(run, remark: str = "") -> str:
    """The header of a run. remark: what was made of the recipe."""
    from robustcls.core.classifier import sees
    from robustcls.runtime.device import describe_device

    config, size = run.config, "x".join(map(str, run.model.input_size))
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    about = f" ({run.train.note})" if run.train.note else ""
    how = [] if config.makes_examples else [f"attack {config.adv}"]
    how += [] if config.step == "once" else [f"step {config.step}"]
    lines = [
        f"data      {config.data}: {len(run.train)} training, {min(config.val_n, len(run.val))} validation images{about}",
        f"model     {config.arch}, {parameters / 1e6:.2f} million parameters, {len(run.train.classes)} classes, input {size}",
        f"training  {', '.join([config.objective, *how])}, {run.threat}, "
        f"{config.epochs} epochs, batch {run.batch_size}",
        f"device    {describe_device(run.device)}, {run.precision}",
        f"folder    {run.folder}",
    ]
    if run.init_note:
        lines.insert(2, f"init      {run.init_note}")
    if remark:
        lines.insert(-2, f"recipe    {remark}")
    lines.insert(-2, f"input     {config.arch} {sees(run.model)}")
    if run.output_note:
        lines.insert(-2, f"output    {run.output_note}")
    if run.config.is_adversarial and run.threat.reaches_grey(run.model.input_size):
        lines.append(
            f"warning   within {run.threat} every image may become uniform grey, so that no model can be robust: a radius "
            "in grey levels is written as 8/255"
        )
    if run.world.size > 1:
        lines.append(f"world     {run.world.size} processes, {run.batch_size // run.world.size} images each")
    return "\n".join(wrap(line, indent=10) for line in lines)


# The gap is attacked less robust: robust overfitting widens it.
HEADER = """\
                         -- training ---  ---- validation ----
 epoch        lr    loss  clean attacked  clean  robust   fgsm    gap    img/s"""


class Progress:
    """A bar with rate and time left for the whole run, and one line per epoch."""

    def __init__(self, run) -> None:
        self.run = run
        total = run.config.epochs * run.num_batches * run.images_per_batch
        done = run.images_seen
        self.bar = Bar(total, "training", "image", show=not run.config.quiet, done=done, scale=True)
        self.headed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.bar.close()

    def batch(self, run) -> None:
        self.bar.label = f"epoch {run.epoch + 1}/{run.config.epochs}"
        self.bar.advance(run.images_per_batch)

    def epoch(self, row) -> None:
        if self.run.config.quiet:
            return
        with self.bar.above():
            if not self.headed:
                click.echo(HEADER)
                self.headed = True
            clean, attacked, *validation = map(
                _share, (row.train_clean, row.train_robust, row.val_clean, row.val_robust, row.val_fgsm)
            )
            seen, held = row.train_robust, row.val_robust
            gap = "-" if seen is None or held is None else f"{100 * (seen - held):+.1f}"
            click.echo(
                f"{row.epoch:>3}/{self.run.config.epochs:<3}{row.lr:>9.3g}{row.train_loss:>8.3f}{clean:>7}{attacked:>9}"
                f"{validation[0]:>7}{validation[1]:>8}{validation[2]:>7}{gap:>7}{row.images_per_second:>9.0f}"
            )
            last = row.epoch == self.run.config.epochs or self.run.stopped  # of it the conclusion tells
            for said in filter(None, (row.event, "" if last else row.warning)):
                click.echo(wrap(f"  {said}", indent=2))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
