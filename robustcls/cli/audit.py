"""`robustcls audit`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.auditing.config import AuditConfig
from robustcls.cli.console import note, table, with_interval, wrap
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.cli.places import command_line
from robustcls.core.claims import claim

if TYPE_CHECKING:
    from robustcls.results.audit import Audit, Finding

SHOWN = 10


@click.command("audit", cls=GroupedCommand)
@click.option(
    "--apply",
    "decisions",
    metavar="FILE.csv",
    help="Audit nothing: write a corrected copy of the data by what a person decided in this file.",
)
@config_option
@options(AuditConfig)
def command(flags: dict, config_file: str | None, decisions: str | None) -> None:
    """Find what is wrong with training data: label errors, duplicates, confused classes, images near the boundary.

    Trains two to four models, each on what the others are not, so that every image is judged by one that has not seen it.
    Writes audit.json, issues.csv (label errors), suggest.csv (what a person should look at), audit.html (the same with
    pictures) and predictions.npz. Only the train split is audited; of other splits it says which images are duplicates.

    A person decides on the page, which gives labels.csv, or fills in the columns decision (keep, relabel, remove) and
    new_label of a CSV. --apply copies the data with that done, to be read as folder:DIR; no test image changes.

    \b
      robustcls audit --data folder:photos
      robustcls audit --data folder:photos --minutes 30 --folds 4 --suggest 500
      robustcls audit --data digits --epochs 12 --attack "pgd(steps=20)"
      robustcls audit --data folder:photos --apply audit/suggest.csv --out photos2
    """
    config = build(AuditConfig, flags, config_file)
    if decisions:
        correct(config, decisions)
        return

    from robustcls.auditing.run import JSON, PAGE, check_place, run_audit

    out = Path(config.out or "audit")
    check_place(out, config.data)
    with claim(out, folder=True):
        found = run_audit(config, out=out, progress=not config.quiet, command=command_line())
    if not config.quiet:
        note(summarise(found))
        click.echo(out / PAGE)
    click.echo(out / JSON)


def correct(config: AuditConfig, decisions: str) -> None:
    """Writes the corrected copy and says what was done."""
    from robustcls.auditing.apply import apply_decisions

    out = Path(config.out or "corrected")
    with claim(out.resolve().with_name(f"{out.name}.audit"), shown=out):  # beside it: the folder appears as a whole
        done = apply_decisions(
            config.data or "digits", decisions, out, data_dir=config.data_dir, skip_corrupt=config.skip_corrupt
        )
    note(
        f"{done.relabelled} relabelled, {done.removed} removed, {done.kept} kept as they are: {done.images} training images; "
        f"read them as folder:{out}",
        config.quiet,
    )
    click.echo(out)


def summarise(found: "Audit") -> str:
    """The audit for a terminal."""
    names = found.classes
    lines = [
        f"{found.data.n} training images, {found.folds} folds, {'/'.join(map(str, found.epochs))} epochs: "
        f"{with_interval(found.accuracy)} of the labels are predicted",
        f"{len(found.issues)} labels are taken for wrong",
        *[_line(found, one) for one in found.issues[:SHOWN]],
    ]
    exact = [group for group in found.duplicates if group.exact]
    across = [group for group in found.duplicates if group.across]
    two = [group for group in found.duplicates if group.two_labels]
    lines.append(
        f"{len(found.duplicates)} groups of duplicates in {', '.join(found.searched)}: {len(exact)} exact, {len(across)} "
        f"across splits, {len(two)} under two labels"
    )
    if found.pairs:
        attacked = found.attacked > 0
        head = ("label -> taken for", "clean", *([f"{found.threat.text if found.threat else ''}"] if attacked else []))
        rows = [
            (f"{names[one.label]} -> {names[one.guess]}", with_interval(one.clean),
             *([with_interval(one.attacked) if one.attacked else "-"] if attacked else []))
            for one in found.pairs[:SHOWN]
        ]  # fmt: skip
        lines.append("")
        return "\n".join([*map(wrap, lines[:-1]), "", table(head, rows), *map(wrap, found.notes)])
    return "\n".join(map(wrap, [*lines, *found.notes]))


def _line(found: "Audit", one: "Finding") -> str:
    return f"  {found.name_of(one)}: {found.classes[one.label]}, taken for {found.classes[one.guess]}, {one.said}"
