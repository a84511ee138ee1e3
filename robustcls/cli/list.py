"""`robustcls list`."""

import textwrap

import click

from robustcls.core import plugins


@click.command("list")
@click.argument("kind", required=False)
def command(kind: str | None) -> None:
    """List the plug-ins of KIND, or of every kind, each with its options and its source.

    \b
      robustcls list
      robustcls list attack
    """
    blocks = [_block(name, plugins.describe(name)) for name in ([kind] if kind else plugins.KINDS)]
    click.echo("\n\n".join(block for block in blocks if block))


def _block(kind: str, found: list[plugins.Plugin]) -> str:
    lines = [f"{kind}:"] if found else []
    for plugin in found:
        lines += textwrap.wrap(plugin.signature, 78, initial_indent="  ", subsequent_indent="      ")
        lines += textwrap.wrap(plugin.summary, 78, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"    {plugin.path}")
    return "\n".join(lines)
