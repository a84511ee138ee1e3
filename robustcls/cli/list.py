"""`robustcls list`."""

import textwrap

import click

from robustcls.core import measures, plugins
from robustcls.core.errors import unknown

KINDS = sorted([*plugins.KINDS, "measure"])


@click.command("list")
@click.argument("kind", required=False)
def command(kind: str | None) -> None:
    """List the plug-ins of KIND, or of every kind, each with its options and its source.

    Suites of attacks, self-checks and measures of an evaluation are kinds, too.

    \b
      robustcls list
      robustcls list attack
      robustcls list check
    """
    if kind and kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    found = {name: measures.describe() if name == "measure" else plugins.describe(name) for name in KINDS}
    blocks = [_block(name, found[name]) for name in ([kind] if kind else KINDS)]
    click.echo("\n\n".join(block for block in blocks if block))


def _block(kind: str, found: list[plugins.Plugin]) -> str:
    lines = [f"{kind}:"] if found else []
    for plugin in found:
        lines += textwrap.wrap(plugin.signature, 78, initial_indent="  ", subsequent_indent="      ")
        lines += textwrap.wrap(plugin.summary, 78, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"    {plugin.path}")
    return "\n".join(lines)
