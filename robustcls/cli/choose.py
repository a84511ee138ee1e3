"""`robustcls choose`."""

import os
import shlex
from functools import partial
from pathlib import Path

import click

from robustcls.choosing.config import ChooseConfig
from robustcls.cli.console import interval, note, table, wrap
from robustcls.cli.options import GroupedCommand, options
from robustcls.cli.places import command_line
from robustcls.core.progress import duration


@click.command("choose", cls=GroupedCommand)
@options(ChooseConfig)
def command(flags: dict) -> int:
    """Choose the best of several training recipes in a given time, by successive halving.

    In each rung, every remaining recipe is trained from scratch for the same number of seconds, with a learning rate schedule
    for this time. The better half is kept, ranked by the lower end of the 95% interval of robust validation accuracy. Test
    images are never read.

    A difference is claimed only if its interval excludes 0, if it is larger than the differences that other seeds make for
    the winner, and if the better recipe did not train for a quarter more seconds. choose.json in the folder has all results;
    the run of the winner is beside it.

    The same command continues an interrupted search. If you start it several times with the same --out, or with torchrun,
    the processes share the candidates.

    \b
      robustcls choose --arch "vgg16(width=0.125)" --arch "resnet18(width=0.25)"
      robustcls choose --config a.toml --config b.toml --minutes 12 --out choice
      robustcls choose --arch "vgg16(width=0.25)" --arch "vgg16(width=0.5)" \\
          --data cifar10 --adv n_fgsm --limit-train 10000 --learning-curve
    """
    from robustcls.choosing.choose import choose_given

    first = os.environ.get("RANK", "0") == "0"  # under torchrun, only one process prints
    quiet = bool(flags.get("quiet")) or not first

    places: list[Path] = []

    def begun(where: Path) -> None:
        places.append(where)
        note(f"folder {where}", quiet)

    def show_rung(number: int, rung) -> None:
        if not quiet:
            click.echo(f"{_rung(number, rung)}\n")

    try:
        choice = choose_given(
            flags, say=partial(note, quiet=quiet), on_rung=show_rung, on_folder=begun, command=command_line()
        )
    except KeyboardInterrupt:
        if places:
            again = f"--out {shlex.quote(str(places[0]))}"
            click.echo(f"interrupted and saved; continue with the same command and {again}", err=True)
        else:
            click.echo("interrupted before the first training run; start again with the same command", err=True)
        return 130
    if not first:
        return 0
    click.echo(_costs(choice))
    click.echo()
    for line in _findings(choice):
        click.echo(wrap(line))
    click.echo(f"{choice.home / 'choose.json'}")
    click.echo(f"{choice.home / choice.best.folder / 'ckpt.pt'}")
    return 0


def _rung(number: int, rung) -> str:
    """Return the table of a rung: its trials, the best first, and which are kept."""
    rows = [
        [
            trial.name, str(trial.epochs), f"{trial.seconds:.0f}", _share(trial.clean), _share(trial.robust),
            "failed" if trial.failed else "kept" if trial.name in rung.kept else "out",
        ]
        for trial in rung.trials
    ]  # fmt: skip
    title = f"rung {number}: {duration(rung.seconds)} each"
    shown = table([title, "epochs", "s", "clean", "robust", ""], rows)
    if not rung.unequal:
        return shown
    return f"{shown}\n{wrap(f'unequal: {rung.unequal}: differences between them may be due to the time')}"


def _costs(choice) -> str:
    """Return the table of each candidate's cost and its accuracy in the first rung, where all trained equally long."""
    first = {trial.name: trial for trial in choice.rungs[0].trials}
    rows = [
        [
            one.name, _short(first[one.name].clean), _short(first[one.name].robust), f"{one.parameters / 1e6:.2f}M",
            f"{one.mflop:.1f}", "-" if one.latency_ms is None else f"{one.latency_ms:.2f}", "*" if one.pareto else "",
        ]
        for one in choice.candidates
    ]  # fmt: skip
    return table(["candidate", "clean", "robust", "params", "MFLOP", "ms", "Pareto"], rows)


def _findings(choice) -> list[str]:
    """Return the conclusions from the tables and their limits, as sentences."""
    best = choice.best
    lines = [
        f"Accuracies are on {best.score.total} validation images; the tables of the rungs show 95% intervals. The table above "
        "has the accuracies of rung 1. Pareto (*): no other candidate is at least as good in all columns and better in one. "
        "This ignores the intervals, so with few images it is partly chance. ms: median time for one image, exported model, "
        "one thread.",
        *([choice.remark] if choice.remark else []),
        *(f"{trial.name} failed: {trial.failed}" for rung in choice.rungs for trial in rung.trials if trial.failed),
        *filter(None, (_guessing(number, rung) for number, rung in enumerate(choice.rungs, start=1))),
        f"best: {choice.winner}, {_share(best.score)} by {choice.chosen_by}; it was chosen on these images, so measure it "
        "on test images",
    ]
    if choice.noise is None:
        lines.append("seed noise was not measured: a difference may be due to the seeds")
    else:
        lines.append(
            f"{_seeds(choice)}: the same recipe with {len(choice.seeds)} seeds differs by {100 * choice.noise:.1f} points: no "
            "smaller difference is claimed"
        )
    lines += [f"{choice.winner} {_against(rival)}" for rival in choice.rivals]
    if choice.curve:
        lines += _learning_curve(choice)
    return lines


def _seeds(choice) -> str:
    """Return a sentence about the winner's recipe under other seeds.

    The first run is left out of the list: it was selected as the best of several, the others were not.
    """
    first, *others = choice.seeds
    numbers, accuracies = (
        ", ".join(str(one.seed) for one in others),
        ", ".join(f"{one.score.accuracy:.1%}" for one in others),
    )
    updates = {one.updates for one in choice.seeds}
    trained = f" after {', '.join(str(one.updates) for one in others)} updates, not {first.updates}"
    return (
        f"with seed{'s'[: len(others) > 1]} {numbers}: {accuracies}{trained if len(updates) > 1 else ''}; mean of all "
        f"{len(choice.seeds)}: {choice.seeds_mean:.1%}"
    )


def _guessing(number: int, rung) -> str:
    names = [trial.name for trial in rung.trials if trial.guesses and not trial.failed]
    if not names:
        return ""
    return f"in rung {number} no better than guessing, so their order means nothing: {', '.join(names)}: give more --minutes"


def _against(rival) -> str:
    value = f"{_points(rival)}, {rival.stage}"
    if rival.claimable:
        return f"is better than {rival.second} by {value}"
    return f"cannot be told apart from {rival.second}: {value}{rival.unequal and f'; {rival.unequal}'}"


def _learning_curve(choice) -> list[str]:
    """Return the learning curve, and what more data or a larger model would gain."""
    curve = ", ".join(f"{trial.images} images {trial.score.accuracy:.1%}" for trial in choice.curve)
    updates = [trial.updates for trial in choice.curve]
    alike = max(updates) <= 1.1 * min(updates)
    how = "each for about as many updates" if alike else f"for {', '.join(map(str, updates))} updates"
    lines = [f"learning curve of {choice.winner}, {how}: {curve}"]
    gains = [("twice the images", choice.more_data), ("a larger model", choice.larger_model)]
    for name, gain in gains:
        if gain:
            sure = "" if gain.claimable else ", which cannot be told apart from 0"
            stage = gain.unequal or gain.stage
            lines.append(f"  {name}: {_points(gain)}{sure} ({gain.first} against {gain.second}, {stage})")
    return lines


def _points(comparison) -> str:
    low, high = comparison.ci95
    return f"{100 * comparison.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _share(accuracy) -> str:
    if accuracy is None:
        return "-"
    return f"{accuracy.accuracy:.1%} {interval((100 * bound for bound in accuracy.ci95), '.0f')}"


def _short(accuracy) -> str:
    return "-" if accuracy is None else f"{accuracy.accuracy:.1%}"
