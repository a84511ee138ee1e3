"""`robustcls compare`."""

import click

from robustcls.cli.console import table, wrap
from robustcls.core.comparison import find_mismatch, held, was_right
from robustcls.core.errors import InputError
from robustcls.core.records import Evaluation
from robustcls.core.statistics import mcnemar, paired_difference


@click.command("compare")
@click.argument("files", nargs=-1, required=True, metavar="A.json B.json [...]")
def command(files: tuple[str, ...]) -> None:
    """Show evaluations of the same samples side by side; differences are paired, against the first.

    Refused where data, threat model or attacks differ, since the numbers would not mean the same.

    \b
      robustcls compare standard/evaluation.json pgd/evaluation.json
    """
    if len(files) < 2:
        raise click.UsageError("compare needs two evaluations or more: give their JSON files")
    evaluations = [Evaluation.load(file) for file in files]
    for file, evaluation in zip(files[1:], evaluations[1:], strict=True):
        if reason := find_mismatch([evaluations[0], evaluation]):
            raise InputError(f"{files[0]} and {file} cannot be compared: {reason}")
    names = [f"{chr(65 + i)} {e.model.name}" for i, e in enumerate(evaluations)]
    first = evaluations[0]
    rows = [
        (name, f"{e.clean.accuracy:.1%}", _interval(e.clean.ci95), f"{e.robust.accuracy:.1%}", _interval(e.robust.ci95))
        for name, e in zip(names, evaluations, strict=True)
    ]
    click.echo(table(("model", "clean", "95%", "robust", "95%"), rows))
    click.echo("")
    differences = []
    for name, other in zip(names[1:], evaluations[1:], strict=True):
        for what, right in (("clean", was_right), ("robust", held)):
            a, b = ([right(sample) for sample in e.samples] for e in (first, other))
            gain, (low, high) = paired_difference(a, b)
            interval = f"[{low:+.1%}, {high:+.1%}]"
            differences.append((f"{name[0]} - {names[0][0]}", what, f"{gain:+.1%}", interval, f"{mcnemar(a, b):.2g}"))
    click.echo(table(("difference", "accuracy", "points", "95%", "McNemar p"), differences))
    click.echo("")
    click.echo(wrap(f"{first.data.name}, split {first.data.split}, n = {first.data.n}"))
    click.echo(wrap(f"{first.threat.norm} {first.threat.eps_text}, {first.robust.kind}, 95% intervals"))


def _interval(ci95: list[float]) -> str:
    return f"[{ci95[0]:.1%}, {ci95[1]:.1%}]"
