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
    """Choose among several recipes in a given time: train all, keep the better half, and again.

    Each rung of this successive halving trains those that are left anew, each for the same seconds, with the learning rate's
    schedule planned for these, and keeps the better half by the lower end of the 95% interval of robust validation accuracy.
    Test images are never read. The table says what may be claimed: a difference whose interval leaves out 0, that is larger
    than what other seeds make of the winner, and that does not go with a quarter more seconds. choose.json in the folder
    holds it all; the winner's run is beside it.

    The same command goes on where it was cut off. Started several times with one --out, or by torchrun, the processes share
    the candidates.

    \b
      robustcls choose --arch "vgg16(width=0.125)" --arch "resnet18(width=0.25)"
      robustcls choose --config a.toml --config b.toml --minutes 12 --out choice
      robustcls choose --arch "vgg16(width=0.25)" --arch "vgg16(width=0.5)" \\
          --data cifar10 --adv n_fgsm --limit-train 10000 --learning-curve
    """
    from robustcls.choosing.choose import choose_given
    from robustcls.training.loop import Interrupted

    first = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, one prints
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
    except Interrupted:
        again = f"--out {shlex.quote(str(places[0]))}"
        click.echo(f"interrupted and saved; the same command goes on, with {again}", err=True)
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
    """A round: the best first, and who goes out."""
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
    return f"{shown}\n{wrap(f'unequal: {rung.unequal}: what differs between them may come from the time')}"


def _costs(choice) -> str:
    """What each candidate costs, beside its accuracy in the first rung, where all had the same seconds."""
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
    """What the tables say, and what they do not."""
    best = choice.best
    said = [
        f"Accuracy is on {best.score.total} validation images, with 95% intervals in the tables of the rungs; the table above "
        "is of rung 1. Pareto: no other is as good in all columns and better in one, by these accuracies as they are, "
        "without their intervals: among few images chance decides. ms: median of one image, exported, one thread.",
        *([choice.remark] if choice.remark else []),
        *(f"{trial.name} failed: {trial.failed}" for rung in choice.rungs for trial in rung.trials if trial.failed),
        *filter(None, (_guessing(number, rung) for number, rung in enumerate(choice.rungs, start=1))),
        f"best: {choice.winner}, {_share(best.score)} by {choice.chosen_by}; it was chosen by these images, so measure it "
        "on test images",
    ]
    if choice.noise is None:
        said.append("seed noise was not measured: a difference may be one of seeds")
    else:
        said.append(
            f"{_seeds(choice)}: the same recipe under {len(choice.seeds)} seeds differs by {100 * choice.noise:.1f} points: no "
            "smaller difference is claimed"
        )
    said += [f"{choice.winner} {_told(rival)}" for rival in choice.rivals]
    if choice.curve:
        said += _more(choice)
    return said


def _seeds(choice) -> str:
    """The winner's recipe again: of these the first alone was the best of several."""
    first, *others = choice.seeds
    numbers, found = (
        ", ".join(str(one.seed) for one in others),
        ", ".join(f"{one.score.accuracy:.1%}" for one in others),
    )
    updates = {one.updates for one in choice.seeds}
    trained = f" after {', '.join(str(one.updates) for one in others)} updates, not {first.updates}"
    return (
        f"with seed{'s'[: len(others) > 1]} {numbers}: {found}{trained if len(updates) > 1 else ''}; mean of all "
        f"{len(choice.seeds)}: {choice.seeds_mean:.1%}"
    )


def _guessing(number: int, rung) -> str:
    names = [trial.name for trial in rung.trials if trial.guesses and not trial.failed]
    if not names:
        return ""
    return f"in rung {number} no better than guessing, so that their rank tells nothing: {', '.join(names)}: more --minutes"


def _told(rival) -> str:
    value = f"{_points(rival)}, {rival.stage}"
    if rival.claimable:
        return f"is better than {rival.second} by {value}"
    return f"cannot be told apart from {rival.second}: {value}{rival.unequal and f'; {rival.unequal}'}"


def _more(choice) -> list[str]:
    """More data or a larger model."""
    curve = ", ".join(f"{trial.images} images {trial.score.accuracy:.1%}" for trial in choice.curve)
    updates = [trial.updates for trial in choice.curve]
    alike = max(updates) <= 1.1 * min(updates)
    how = "each for about as many updates" if alike else f"for {', '.join(map(str, updates))} updates"
    said = [f"learning curve of {choice.winner}, {how}: {curve}"]
    gains = [("twice the images", choice.more_data), ("a larger model", choice.larger_model)]
    for name, gain in gains:
        if gain:
            sure = "" if gain.claimable else ", not to be told from 0"
            stage = gain.unequal or gain.stage
            said.append(f"  {name}: {_points(gain)}{sure} ({gain.first} against {gain.second}, {stage})")
    return said


def _points(found) -> str:
    low, high = found.ci95
    return f"{100 * found.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _share(accuracy) -> str:
    if accuracy is None:
        return "-"
    return f"{accuracy.accuracy:.1%} {interval((100 * bound for bound in accuracy.ci95), '.0f')}"


def _short(accuracy) -> str:
    return "-" if accuracy is None else f"{accuracy.accuracy:.1%}"
