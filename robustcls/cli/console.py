"""What commands print: results on stdout, progress and notes on stderr."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from robustcls.core.records import Accuracy


def note(text: str, quiet: bool = False) -> None:
    """A line that says what was taken or assumed."""
    if not quiet:
        click.echo(text, err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need, the first left-aligned, numbers to the right."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(["".join(line.rstrip()) for line in (lines[0], "-" * min(80, len(lines[0])), *lines[1:])])


def percent(accuracy: Accuracy) -> str:
    low, high = accuracy.ci95
    return f"{accuracy.accuracy:6.1%}  [{low:.1%}, {high:.1%}]  {accuracy.correct} of {accuracy.total}"


def progress(quiet: bool):
    """A wrapper for batches of an attack: survivors, rate and time left on stderr after two seconds."""

    def wrap(batches: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        from tqdm import tqdm

        with tqdm(
            total=total, desc=label, unit="img", delay=2, leave=False, disable=quiet or not sys.stderr.isatty()
        ) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch))

    return wrap
