"""`robustcls compare`."""

import click

from robustcls.cli.console import interval, table, wrap
from robustcls.cli.console import markdown as as_markdown
from robustcls.cli.options import GroupedCommand
from robustcls.core.errors import InputError


@click.command("compare", cls=GroupedCommand)
@click.argument("files", nargs=-1, required=True, metavar="A.json B.json [...]")
@click.option("--markdown", is_flag=True, help="Print Markdown tables, for a README.")
def command(files: tuple[str, ...], markdown: bool) -> None:
    """Show evaluations of the same samples side by side, with paired differences from the first evaluation.

    Evaluations with different data, threat models or attacks are refused, because their numbers are not comparable.

    \b
      robustcls compare standard/evaluation.json pgd/evaluation.json
      robustcls compare standard/evaluation.json pgd/evaluation.json --markdown
    """
    if len(files) < 2:
        raise click.UsageError("compare needs two evaluations or more: give their JSON files")

    from robustcls.results.balance import measures_by_class, needs_balance, say_absent, say_others, what_is_estimated
    from robustcls.results.comparison import certified_otherwise, find_mismatch, pair, pair_certified
    from robustcls.results.contradictions import broken_proof, with_check
    from robustcls.results.records import Evaluation

    evaluations = [with_check(Evaluation.load(file)) for file in files]
    for file, evaluation in zip(files[1:], evaluations[1:], strict=True):
        if reason := find_mismatch([evaluations[0], evaluation]):
            raise InputError(f"{files[0]} and {file} cannot be compared: {reason}")
    names = [f"{chr(65 + i)} {e.model.name}" for i, e in enumerate(evaluations)]
    first, *others = evaluations
    rows = [
        (name, f"{e.clean.accuracy:.1%}", interval(e.clean.ci95), f"{e.robust.accuracy:.1%}", interval(e.robust.ci95))
        for name, e in zip(names, evaluations, strict=True)
    ]
    differences = [
        (f"{name[0]} - {names[0][0]}", one.part, f"{one.difference:+.1%}", interval((one.low, one.high), "+.1%"),
         f"{one.p:.2g}")
        for name, other in zip(names[1:], others, strict=True)
        for one in (*pair(first, other), *pair_certified(first, other))
    ]  # fmt: skip
    by_class = [
        row
        for name, e in zip(names, evaluations, strict=True)
        if needs_balance(e)
        for one in measures_by_class(e)
        if one.clean or one.robust
        for row in one.rows(f"{name[0]} ", narrow=not markdown)
    ]
    proven = [
        (f"{name[0]} {e.certified.norm}", e.certified.text(one.radius), f"{one.accuracy:.1%}", interval(one.ci95))
        for name, e in zip(names, evaluations, strict=True)
        if e.certified
        for one in e.certified.curve
    ]
    show = as_markdown if markdown else table
    data = f"{first.data.name}, split {first.data.split}, n = {first.data.n}"
    threat = f"{first.threat.text}, {first.robust.kind}, 95% intervals"
    click.echo(show(("model", "clean", "95%", "robust", "95%"), rows))
    click.echo("")
    if by_class:
        click.echo(show(("by class", "clean", "95%", "robust", "95%"), by_class))
        click.echo("")
    if proven:
        click.echo(show(("certified", "radius", "accuracy", "95%"), proven))
        click.echo("")
    click.echo(show(("difference", "accuracy", "points", "95%", "McNemar p"), differences))
    click.echo("")
    click.echo(wrap(data))
    if by_class:
        click.echo(wrap(f"estimated: {what_is_estimated(first)}"))
        for line in dict.fromkeys(filter(None, (*map(say_absent, evaluations), *map(say_others, evaluations)))):
            click.echo(wrap(line))
    click.echo(wrap(threat))
    for name, e in zip(names, evaluations, strict=True):
        if contradiction := broken_proof(e):
            click.echo(wrap(f"warning: {name[0]}: {contradiction}", indent=9))
        if e.certified:
            click.echo(wrap(f"certified: {name[0]} by {e.certified.how}", indent=2))
        if reason := certified_otherwise(first, e):
            click.echo(
                wrap(f"certified accuracies of {names[0][0]} and {name[0]} are not compared: {reason}", indent=2)
            )
