"""`robustcls list`."""

import textwrap

import click

from robustcls.core import measures, plugins
from robustcls.core.errors import unknown

KINDS = sorted([*plugins.KINDS, "measure"])


@click.command("list")
@click.argument("kind", required=False)
def command(kind: str | None) -> None:
    """List the plug-ins of KIND, or of all kinds, with their options and source files.

    Suites of attacks, self-checks and the measures of an evaluation are kinds of plug-ins, too.

    \b
      robustcls list
      robustcls list attack
      robustcls list check
    """
    if kind and kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    by_kind = {name: measures.describe() if name == "measure" else plugins.describe(name) for name in KINDS}
    blocks = [_block(name, by_kind[name]) for name in ([kind] if kind else KINDS)]
    click.echo("\n\n".join(block for block in blocks if block))


def _block(kind: str, of_kind: list[plugins.Plugin]) -> str:
    lines = [f"{kind}:"] if of_kind else []
    for plugin in of_kind:
        lines += textwrap.wrap(plugin.signature, 78, initial_indent="  ", subsequent_indent="      ")
        lines += textwrap.wrap(plugin.summary, 78, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"    {plugin.path}")
    return "\n".join(lines)
