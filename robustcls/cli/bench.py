"""`robustcls bench`."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from robustcls.bench.config import BenchConfig
from robustcls.cli.bench_tables import Show, render
from robustcls.cli.console import markdown as as_markdown
from robustcls.cli.console import note, table
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.core.claims import claim
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable, is_stdout, is_stream


@click.command("bench", cls=GroupedCommand)
@click.argument("file", required=False, metavar="[FILE.json]")
@click.option("--markdown", is_flag=True, help="Print Markdown tables, for a README.")
@click.option("--contest", hidden=True, multiple=True)
@config_option
@options(BenchConfig)
def command(flags: dict, config_file: str | None, file: str | None, markdown: bool, contest: tuple[str, ...]) -> None:
    """Measure the speed of training, attacks and explanations on this machine.

    Speeds are compared with the rate of a large matrix product on the same device; the tables show the share of this limit.
    Attacks are measured in each way of computation that the device supports, such as bf16 or compiled, and must give the
    same robust accuracy as exact fp32.

    The suite serve runs a service on one processor and a client on another. The suite cuda trains and attacks whole
    architectures on a GPU. With FILE.json, the result of an earlier bench is printed and nothing is measured. Comparisons
    with other libraries are in the repository, under experiments/contests.

    \b
      robustcls bench
      robustcls bench --suite train --arch "vgg16(width=1.0)" --rounds 5
      robustcls bench --suite attack --model ckpt.pt --workload fast --n 512
      robustcls bench --suite explain --model ckpt.pt
      robustcls bench --suite deploy --model ckpt.pt
      robustcls bench --suite serve --model artefact
      robustcls bench --suite cuda --arch vgg16 --data cifar10 --out bench.json
      robustcls bench bench.json --markdown
    """
    show = as_markdown if markdown else table
    if contest:
        raise click.UsageError(
            f"--contest {contest[0]}: comparisons with other libraries have moved to the repository: "
            f"python -m experiments.contests --suite attack --contest {contest[0]}"
        )
    if file:
        if flags or config_file:
            raise click.UsageError(f"{file} is only printed: leave out all other options except --markdown")
        click.echo(read(Path(file), show))
        return
    config = build(BenchConfig, flags, config_file)
    if config.out:
        check_writable(config.out, inputs=[one for one in (config.model, config_file) if one])
    with claim(config.out) if config.out else nullcontext():
        result = measure(config)
    aside = is_stdout(config.out)
    click.echo(render(result, show), err=aside)
    if config.out:
        click.echo(f"\n{config.out}", err=aside)


def measure(config: BenchConfig) -> dict[str, Any]:
    """Measure, and return the result. With --out, the results so far are written after each step."""
    from robustcls.bench.suites import run_bench

    def save(result: dict[str, Any]) -> None:
        if config.out:
            with atomic_write(config.out) as part:
                part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    so_far = save if config.out and not is_stream(config.out) else lambda result: None
    result = run_bench(config, lambda text: note(text, config.quiet), so_far)
    save(result)
    return result


def read(file: Path, show: Show) -> str:
    """Return the tables of a file that `robustcls bench` wrote. Raises InputError for any other file."""
    try:
        return render(json.loads(file.read_text(encoding="utf-8")), show)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no result of robustcls bench ({type(error).__name__}): give its --out") from None
