"""`robustcls train`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from robustcls.cli.console import note, wrap
from robustcls.cli.options import config_option, options
from robustcls.core.config import read_toml, resolve
from robustcls.training.config import TrainConfig


@click.command("train")
@click.option("--resume", metavar="RUN", help="Go on with this run folder; it knows its configuration.")
@config_option
@options(TrainConfig)
def command(flags: dict, config_file: str | None, resume: str | None) -> int:
    """Train a classifier, adversarially or not; write a run folder.

    The folder holds ckpt.pt (the best by validation), last.pt (for --resume), config.toml and history.jsonl. What is not
    given comes from the recipe of the data set, and else is the default below.

    \b
      robustcls train                  # VGG16 on digits with PGD
      robustcls train --adv none       # the same without an attack
      robustcls train --data cifar10 --adv "pgd(steps=3)" --eps 8/255 --epochs 40
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
            name = min(flags.keys() - {"quiet"}, default="config").replace("_", "-")
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
        run.rehearse()
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
    click.echo(f"best epoch {best.epoch}: clean {_share(best.val_clean)}, robust {_share(best.val_robust)}")
    click.echo(wrap(f"by {run.selected_by}"))
    click.echo(f"{folder / 'ckpt.pt'}")
    if not config.quiet:
        click.echo(f"next: robustcls attack --model {folder / 'ckpt.pt'}", err=True)
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
    lines = [
        f"data      {config.data}: {len(run.train)} training, {min(config.val_n, len(run.val))} validation images{remark}",
        f"model     {config.arch}, {parameters / 1e6:.2f} million parameters, {len(run.train.classes)} classes, input {size}",
        f"training  {config.objective}, attack {config.adv}, {run.threat}, {config.epochs} epochs, batch {run.batch_size}",
        f"device    {describe_device(run.device)}, {run.precision}",
        f"folder    {run.folder}",
    ]
    return "\n".join(wrap(line, indent=10) for line in lines)


HEADER = """\
                         -- training --    ------ validation ------
 epoch         lr    loss   clean  attacked   clean  robust    fgsm    img/s"""


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
                click.echo(HEADER)
                self.headed = True
            shares = (row.train_clean, row.train_robust, row.val_clean, row.val_robust, row.val_fgsm)
            clean, attacked, *validation = map(_share, shares)
            click.echo(
                f"{row.epoch:>3}/{self.run.config.epochs:<3}{row.lr:>10.3g}{row.train_loss:>8.3f}{clean:>8}{attacked:>10}"
                + "".join(f"{share:>8}" for share in validation)
                + f"{row.images_per_second:>9.0f}"
            )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
