"""`robustcls train`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from robustcls.cli.console import note
from robustcls.cli.options import config_option, options
from robustcls.core.config import read_toml, resolve
from robustcls.training.config import TrainConfig


@click.command("train")
@click.option("--resume", metavar="RUN", help="Go on with this run folder; it knows its configuration.")
@config_option
@options(TrainConfig)
def command(flags: dict, config_file: str | None, resume: str | None) -> int:
    """Train a classifier, adversarially or not; write a run folder.

    The folder holds ckpt.pt (the best by validation), last.pt (for --resume), config.toml and history.jsonl.

    \b
      robustcls train                                        # VGG16 on digits with PGD
      robustcls train --adv none                             # the same without an attack
      robustcls train --data cifar10 --adv "pgd(steps=3)" --eps 8/255 --epochs 30
      robustcls train --data folder:images --arch "vgg16(width=0.25)"
      robustcls train --resume runs/digits-vgg16-pgd-20260101-120000
    """
    from robustcls.data.splits import load_training_data
    from robustcls.runtime.device import keep_freed_memory
    from robustcls.training.loop import Interrupted, train
    from robustcls.training.run import Run, new_folder, read_last

    keep_freed_memory()
    content = None
    if resume:
        if flags.keys() - {"quiet"} or config_file:
            name = next(iter(flags.keys() - {"quiet"}), "config").replace("_", "-")
            raise click.UsageError(f"--resume goes on with the run's own configuration: leave out --{name}")
        folder = Path(resume)
        config, content = read_last(folder)
        config.quiet = bool(flags.get("quiet"))
    else:
        config = configure(flags, read_toml(config_file) if config_file else {})
    training, validation = load_training_data(
        config.data or "digits",
        seed=config.seed,
        data_dir=config.data_dir,
        skip_corrupt=config.skip_corrupt,
        limit_train=config.limit_train,
    )
    folder = folder if resume else new_folder(config)
    run = Run(config, folder, training, validation)
    if content:
        run.load_last(content)
    else:
        run.save_config()
    note(describe(run), config.quiet)
    if run.epoch >= config.epochs:
        note(f"{folder} is finished: {config.epochs} of {config.epochs} epochs", config.quiet)
        return 0
    with Progress(run) as progress:
        try:
            train(run, progress.batch, progress.epoch)
        except Interrupted:
            progress.close()
            click.echo(f"interrupted and saved; go on with: robustcls train --resume {folder}", err=True)
            return 130
    best = run.history[run.best_epoch - 1]
    click.echo(
        f"best epoch {best.epoch} by {run.selected_by}: clean {best.val_clean:.1%}, robust {best.val_robust:.1%}"
    )
    click.echo(f"{folder / 'ckpt.pt'}")
    note(f"next: robustcls attack --model {folder / 'ckpt.pt'}", config.quiet)
    return 0


def configure(flags: Mapping[str, Any], file: Mapping[str, Any]) -> TrainConfig:
    """defaults < recipe of the data set < file < flags; a recipe's radius holds for the recipe's norm alone."""
    from robustcls.data import recipe

    chosen = {**file, **flags}
    defaults = recipe(chosen.get("data") or "digits")
    if chosen.get("norm") not in (None, defaults.get("norm")):
        defaults.pop("eps", None)
    return resolve(TrainConfig, defaults, file, flags)


def describe(run) -> str:
    from robustcls.runtime.device import describe_device

    config, size = run.config, "x".join(map(str, run.model.input_size))
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    remark = f" ({run.train.note})" if run.train.note else ""
    return f"""\
data      {config.data}: {len(run.train)} training, {len(run.val)} validation images{remark}
model     {config.arch}, {parameters / 1e6:.2f} million parameters, {len(run.train.classes)} classes, input {size}
training  {config.objective}, attack {config.adv}, {run.threat}, {config.epochs} epochs, batch {run.batch_size}
device    {describe_device(run.device)}, {run.precision}
folder    {run.folder}"""


class Progress:
    """A bar with rate and time left for the whole run, and one line per epoch."""

    def __init__(self, run) -> None:
        from tqdm import tqdm

        self.run = run
        total = run.config.epochs * run.num_batches * run.batch_size
        done = (run.epoch * run.num_batches + run.batch) * run.batch_size
        hidden = run.config.quiet or not sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit="img", unit_scale=True, delay=2, disable=hidden, leave=False)
        self.headed = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.bar.close()

    def batch(self, run) -> None:
        self.bar.set_description(f"epoch {run.epoch + 1}/{run.config.epochs}", refresh=False)
        self.bar.update(run.batch_size)

    def epoch(self, row) -> None:
        from tqdm import tqdm

        if self.run.config.quiet:
            return
        with tqdm.external_write_mode(file=sys.stdout):
            if not self.headed:
                click.echo(" epoch     lr    loss   train:clean  attacked   val:clean  robust   img/s")
                self.headed = True
            click.echo(
                f"{row.epoch:>3}/{self.run.config.epochs:<3}{row.lr:>6.3f}  {row.train_loss:>6.3f}"
                f"{_share(row.train_clean):>14}{_share(row.train_robust):>10}"
                f"{_share(row.val_clean):>12}{_share(row.val_robust):>8}{row.images_per_second:>8.0f}"
            )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
