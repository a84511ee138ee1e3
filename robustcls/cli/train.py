"""`robustcls train`."""

import shlex
from typing import Any

import click

from robustcls.cli.console import interval, note, wrap
from robustcls.cli.options import GroupedCommand, config_option, options
from robustcls.core.config import read_toml
from robustcls.core.errors import as_flags
from robustcls.core.progress import duration
from robustcls.training.config import TrainConfig
from robustcls.training.progress import RunBar


@click.command("train", cls=GroupedCommand)
@click.option("--resume", metavar="RUN", help="Continue the run in this folder, with its own configuration.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the resolved configuration and the cost and time of an epoch, without training.",
)
@config_option
@options(TrainConfig)
def command(flags: dict, config_file: str | None, resume: str | None, dry_run: bool) -> int:
    """Train a classifier, adversarially or not, and write a run folder.

    The folder has ckpt.pt (the best model by validation), last.pt (for --resume), config.toml and history.jsonl. Options that
    you do not set come from the data set's recipe, or from the defaults below. For few images, and with --init, the batch
    size and the learning rate are reduced unless you set --batch-size and --lr; the header of the run reports this.

    Under torchrun, the processes share each batch, and a restarted run continues by itself.

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
      robustcls train --init ckpt.pt --data folder:images --tune "lora(rank=4)"
      robustcls train --init ckpt.pt --prune "channels(ratio=0.5)" --epochs 10
      robustcls train --config trades.toml --dry-run
      robustcls train --resume runs/digits-vgg16-pgd-20260101-120000
      torchrun --nproc-per-node 2 -m robustcls train --out runs/two
    """
    from robustcls.runtime.device import keep_freed_memory, search_for_fastest_convolutions
    from robustcls.runtime.world import join_world
    from robustcls.training.loop import Interrupted, fit
    from robustcls.training.recipe import configure
    from robustcls.training.train import begin

    keep_freed_memory()
    search_for_fastest_convolutions()  # --deterministic turns this off again
    world = join_world()
    task: dict[str, Any] = {"resume": resume, "quiet": bool(flags.get("quiet")), "world": world}
    if resume:
        if flags.keys() - {"quiet"} or config_file:
            name = min(flags.keys() - {"quiet"}, default="config").replace("_", "-")
            raise click.UsageError(f"--resume continues with the run's own configuration: leave out --{name}")
    else:
        file = read_toml(config_file) if config_file else {}
        task["config"] = configure(flags, file)
        task["given"] = {name for name, value in (*file.items(), *flags.items()) if value is not None}
        task["inputs"] = [config_file] if config_file else []
    with begin(**task, dry_run=dry_run) as run:
        if dry_run:
            estimated = estimate(run)  # needs all processes
            if world.first:
                click.echo(estimated)
            return 0
        quiet = run.config.quiet
        note(describe(run), quiet)
        if run.state.finished:
            epochs = run.config.epochs
            note(f"{run.folder} is finished: {run.state.stopped or f'{epochs} of {epochs} epochs'}", quiet)
            return 0
        with Progress(run) as progress:
            try:
                fit(run, progress.batch, progress.epoch)
            except Interrupted:
                progress.close()
                if world.first:
                    command = f"robustcls train --resume {shlex.quote(str(run.folder))}"
                    click.echo(f"interrupted and saved; continue with: {command}", err=True)
                return 130
        if world.first:
            conclude(run)
    return 0


def conclude(run) -> None:
    """Print the result of a finished run."""
    from robustcls.results.learning import at_chance, few_updates, first_rise
    from robustcls.results.overfitting import robust_overfitting
    from robustcls.results.statistics import wilson

    best = next(row for row in reversed(run.state.history) if row.epoch == run.state.best_epoch)
    adversarial = run.config.is_adversarial
    warnings = [
        run.state.stopped and f"stopped: {run.state.stopped}",
        few_updates(run.state.num_batches, run.config.epochs),
        first_rise(run.state.settled_epochs),
        at_chance(run.state.history, run.chance, adversarial=adversarial),
        adversarial and robust_overfitting(run.state.history, run.chance),
    ]
    for warning in filter(None, warnings):
        click.echo(wrap(f"{warning}"))
    robust = "not measured" if best.val_robust is None else _share(best.val_robust)
    click.echo(f"best epoch {best.epoch}: clean {_share(best.val_clean)}, robust {robust}")
    if (density := best.parts.get("density")) is not None:
        click.echo(f"weights that are not 0: {density:.2%}")
    n, share = run.chance.images, best.val_robust if run.selects_robust else best.val_clean
    click.echo(wrap(f"by {run.selected_by}; 95% interval {interval(wilson(share * n, n))}"))
    click.echo(f"{run.folder / 'ckpt.pt'}")
    if not run.config.quiet:
        click.echo(f"next: {attack_command(run)}", err=True)  # on one line, for copying


def attack_command(run) -> str:
    """Return the shell command that evaluates the trained model."""
    from robustcls.data.splits import has_test

    words = ["robustcls", "attack", "--model", str(run.folder / "ckpt.pt")]
    words += ["--arch", run.config.arch] if ":" in run.config.arch else []
    return shlex.join(words if has_test(run.config.data or "digits") else [*words, "--split", "val"])


def estimate(run) -> str:
    """Return the resolved configuration as TOML, with the cost of an epoch in comments."""
    from robustcls.core.config import to_toml
    from robustcls.training.rehearsal import measure_cost

    cost, every = measure_cost(run), run.config.val_every or 1
    whole = (cost.epoch_seconds - cost.val_seconds * (1 - 1 / every)) * run.config.epochs
    often = f", one epoch in {every}" if every > 1 else ""
    lines = [
        f"parameters      {cost.parameters:,}, {cost.trained:,} of them trained",
        f"forward         {cost.forward_flops / 1e6:,.1f} MFLOP per image",
        f"update          {cost.update_flops / 1e6:,.1f} MFLOP per image, attack included",
        f"speed           {cost.images_per_second:,.0f} img/s, median of {cost.timed} updates",
        f"epoch           {duration(cost.epoch_seconds)}, of which validation {duration(cost.val_seconds)}{often}",
        f"run             {duration(whole)}, {run.config.epochs} epochs",
        f"peak memory     {cost.peak_memory_mb:,.0f} MB",
    ]
    return to_toml(run.config) + "\n" + "".join(f"# {line}\n" for line in [*describe(run).splitlines(), *lines])


def describe(run) -> str:
    """Return the header of a run."""
    from robustcls.core.classifier import sees
    from robustcls.runtime.device import describe_device
    from robustcls.runtime.low_rank import plain_parameters

    config, model = run.config, run.state.model
    size = "x".join(map(str, model.input_size))
    parameters = sum(parameter.numel() for parameter in plain_parameters(model).values())
    about = f" ({run.train.note})" if run.train.note else ""
    how = [config.objective]
    how += [] if config.makes_examples else [f"attack {config.adv}"]
    how += [f"with radius {config.train_eps}"] if config.train_eps else []
    how += [f"radius growing over {config.eps_ramp} of the run"] if config.eps_ramp else []
    how += [] if config.step == "once" else [f"step {config.step}"]
    grey = config.is_adversarial and run.threat.reaches_grey(model.input_size)
    lines = {
        "data": f"{config.data}: {len(run.train)} training, {min(config.val_n, len(run.val))} validation images{about}",
        "extra": run.mixed and _describe_unlabelled(run.mixed, run.batch_size),
        "model": f"{config.arch}, {parameters / 1e6:.2f} million parameters, {len(run.train.classes)} classes, input {size}",
        "init": run.notes.get("init"),
        "pruned": run.notes.get("pruned"),
        "tuned": run.notes.get("tuned"),
        "training": f"{', '.join(how)}, {run.threat}, {config.epochs} epochs, batch {run.batch_size}",
        "recipe": run.remark,
        "assumed": as_flags(run.assumed, {"eps": "--eps", "augment": "--augment"}),
        "input": f"{config.arch} {sees(model)}",
        "output": run.notes.get("output"),
        "device": f"{describe_device(run.device)}, {run.precision}",
        "folder": str(run.folder),
        "warning": grey
        and f"every image may become uniform grey within {run.threat}, so that no model can be robust: write a radius in "
        "grey levels as 8/255",
        "world": run.world.size > 1 and f"{run.world.size} processes, {run.batch_size // run.world.size} images each",
    }
    return "\n".join(wrap(f"{name:<10}{text}", indent=10) for name, text in lines.items() if text)


def _describe_unlabelled(mixed, batch_size: int) -> str:
    """Return a line about the unlabelled images and their share of each batch."""
    batch_size = min(batch_size, len(mixed))
    images = mixed.unlabelled
    note = f" ({images.note})" if images.note else ""
    return f"{images.name}: {len(images)} images{note}, {int(mixed.places(batch_size).sum())} of each batch of {batch_size}"


# gap = training accuracy under attack minus robust validation accuracy; it grows with robust overfitting
HEADER = """\
                         -- training ---  ---- validation ----
 epoch        lr    loss  clean attacked  clean  robust   fgsm    gap    img/s"""


class Progress(RunBar):
    """A progress bar, and one line per epoch."""

    def __init__(self, run) -> None:
        super().__init__(run, show=not run.config.quiet)
        self.run, self.headed = run, False

    def epoch(self, row) -> None:
        if self.run.config.quiet:
            return
        with self.above():
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
            last = row.epoch == self.run.config.epochs or self.run.state.stopped  # `conclude` prints its warning
            for message in filter(None, (row.event, "" if last else row.warning)):
                click.echo(wrap(f"  {message}", indent=2))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
