"""Printing: results go to stdout, progress and notes to stderr."""

import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from robustcls.cli.options import flags_of
from robustcls.core.errors import as_flags
from robustcls.core.progress import show_attacks
from robustcls.results.statistics import student_interval

if TYPE_CHECKING:
    from robustcls.results.records import Accuracy

COLUMNS = 80


def note(text: str, quiet: bool = False) -> None:
    """Print a note, such as an assumption or a default that was chosen, to stderr, wrapped to the terminal width."""
    if not quiet:
        context = click.get_current_context(silent=True)
        text = as_flags(text, flags_of(context.command if context else None))
        with suppress(OSError):  # a full disk under a log file must not end a computation
            click.echo("\n".join(wrap(line) for line in text.splitlines()), err=True)


def wrap(text: str, indent: int = 2) -> str:
    """Wrap the text to 80 columns and indent all lines but the first. Words that are too long, such as paths, stay whole."""
    return textwrap.fill(text, COLUMNS, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


_MARKS = {  # status of a criterion: symbol, ASCII replacement, word
    "PASS": ("✓", "+", "met"),
    "WARN": ("!", "!", "warned"),
    "FAIL": ("✕", "x", "failed"),
    "INCONCLUSIVE": ("?", "?", "open"),
}


def mark(status: str) -> str:
    """Return a status as a symbol and a word, padded to ten columns."""
    symbol, plain, word = _MARKS[status]
    try:
        symbol.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeError:
        symbol = plain
    return f"{symbol} {word:<8}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a text table with columns as wide as their contents.

    The first column is left-aligned, and truncated where a line would exceed 80 columns; the others are right-aligned.
    """
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    widths[0] = min(widths[0], max(16, COLUMNS - sum(width + 2 for width in widths[1:])))
    for row in cells:
        row[0] = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 3] + "..."
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([line.rstrip() for line in (lines[0], "-" * len(lines[0]), *lines[1:])])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same as a Markdown table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def interval(bounds: Iterable[float], spec: str = ".1%") -> str:
    low, high = bounds
    return f"[{low:{spec}}, {high:{spec}}]"


def with_interval(accuracy: "Accuracy") -> str:
    """`54.1% [51.0, 57.2]`, as the tables of experiments/ show it."""
    return f"{accuracy.accuracy:.1%} {interval((100 * bound for bound in accuracy.ci95), '.1f')}"


def percent(accuracy: "Accuracy") -> str:
    return f"{accuracy.accuracy:6.1%}  {interval(accuracy.ci95)}  {accuracy.correct} of {accuracy.total}"


def by_seed(values: Sequence[float]) -> str:
    """Format the mean of several runs, and their values in brackets."""
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def difference_by_seed(values: Sequence[float]) -> str:
    """Format the mean of paired differences with its 95% interval over the seeds, by Student's t; "" without values."""
    if len(values) < 2:
        return "".join(f"{value:+.1f}" for value in values)
    mean, (low, high) = student_interval(values)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def progress(quiet: bool) -> Callable[..., Iterator[Any]]:
    """Return the progress wrapper for the batches of an attack."""
    return show_attacks(not quiet)
