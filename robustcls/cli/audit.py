"""`robustcls audit`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.auditing.config import AuditConfig
from robustcls.cli.console import note, table, with_interval, wrap
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.cli.places import command_line
from robustcls.core.claims import claim
from robustcls.core.errors import InputError

if TYPE_CHECKING:
    from robustcls.results.audit import Audit, Finding

SHOWN = 10
APPLIED = {"data", "data_dir", "skip_corrupt", "out", "quiet"}  # options that --apply uses


@click.command("audit", cls=GroupedCommand)
@click.option(
    "--apply",
    "decisions",
    metavar="FILE.csv",
    help="Instead of an audit, write a copy of the data that is corrected by the decisions in this file.",
)
@config_option
@options(AuditConfig)
def command(flags: dict, config_file: str | None, decisions: str | None) -> None:
    """Find problems in training data: label errors, duplicates, confused classes, images near the decision boundary.

    Splits the training images into two to four folds and trains one model per fold on all other folds, so that every image
    is judged by a model that was not trained on it. With --features, these models are linear classifiers on the features of
    a pretrained network. Writes audit.json, issues.csv (label errors), suggest.csv (images that a person should check),
    audit.html (the same with pictures) and predictions.npz. Only the training split is audited; in the other splits, only
    duplicates are searched for.

    To correct the data, decide on the page, which produces labels.csv, or fill in the columns decision (keep, relabel,
    remove) and new_label of a CSV file. Then --apply writes a corrected copy of the data, which you read as folder:DIR.
    Test images never change.

    \b
      robustcls audit --data folder:photos
      robustcls audit --data folder:photos --minutes 30 --folds 4 --suggest 500
      robustcls audit --data folder:photos --features torchvision/resnet18
      robustcls audit --data digits --epochs 12 --attack "pgd(steps=20)"
      robustcls audit --data folder:photos --apply audit/suggest.csv --out photos2
    """
    config = build(AuditConfig, flags, config_file)
    if decisions:
        if ignored := sorted(flags.keys() - APPLIED):
            raise InputError(f"`{ignored[0]}` is for an audit, and `apply` only corrects the data: leave it out")
        correct(config, decisions)
        return

    from robustcls.auditing.run import JSON, PAGE, check_place, run_audit

    out = Path(config.out or "audit")
    check_place(out, config.data)
    with claim(out, folder=True):
        audit = run_audit(config, out=out, progress=not config.quiet, command=command_line())
    if not config.quiet:
        note(summarise(audit))
        click.echo(out / PAGE)
    click.echo(out / JSON)


def correct(config: AuditConfig, decisions: str) -> None:
    """Write the corrected copy and report what was changed."""
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


def summarise(audit: "Audit") -> str:
    """Return the audit as text for a terminal."""
    names = audit.classes
    how = f"features of {audit.features}" if audit.features else f"{'/'.join(map(str, audit.epochs))} epochs"
    lines = [
        f"{audit.data.n} training images, {audit.folds} folds, {how}: "
        f"the models predict {with_interval(audit.accuracy)} of the labels",
        f"{len(audit.issues)} labels are suspicious",
        *[_line(audit, one) for one in audit.issues[:SHOWN]],
    ]
    exact = [group for group in audit.duplicates if group.exact]
    across = [group for group in audit.duplicates if group.across]
    two = [group for group in audit.duplicates if group.two_labels]
    groups = "1 group" if len(audit.duplicates) == 1 else f"{len(audit.duplicates)} groups"
    lines.append(
        f"{groups} of duplicates in {', '.join(audit.searched)}: {len(exact)} exact, {len(across)} "
        f"across splits, {len(two)} with two labels"
    )
    if audit.pairs:
        attacked = audit.attacked > 0
        head = ("label -> predicted", "clean", *([f"{audit.threat.text if audit.threat else ''}"] if attacked else []))
        rows = [
            (f"{names[one.label]} -> {names[one.guess]}", with_interval(one.clean),
             *([with_interval(one.attacked) if one.attacked else "-"] if attacked else []))
            for one in audit.pairs[:SHOWN]
        ]  # fmt: skip
        lines.append("")
        return "\n".join([*map(wrap, lines[:-1]), "", table(head, rows), *map(wrap, audit.notes)])
    return "\n".join(map(wrap, [*lines, *audit.notes]))


def _line(audit: "Audit", one: "Finding") -> str:
    return f"  {audit.name_of(one)}: label {audit.classes[one.label]}, predicted {audit.classes[one.guess]}, {one.said}"
