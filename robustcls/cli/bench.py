"""`robustcls bench`."""

import json
from pathlib import Path
from typing import Any

import click

from robustcls.bench.config import BenchConfig
from robustcls.cli.console import note, table
from robustcls.cli.options import build, config_option, options
from robustcls.core.files import check_writable, replacing


@click.command("bench")
@config_option
@options(BenchConfig)
def command(flags: dict, config_file: str | None) -> None:
    """Measure the speed of training and attack on this machine, beside a plain fp32 loop and the peers installed.

    Contestants run one after another in processes of their own, in rounds; ratios are taken within a round. The limit is the
    arithmetic of the network over the rate of a large matrix product, measured here.

    \b
      robustcls bench
      robustcls bench --suite train --arch "vgg16(width=1.0)" --rounds 5
      robustcls bench --suite attack --model ckpt.pt --n 512 --out bench.json
    """
    config = build(BenchConfig, flags, config_file)
    if config.out:
        check_writable(config.out)

    from robustcls.bench.contest import run_bench

    result = run_bench(config, lambda text: note(text, config.quiet))
    click.echo("\n\n".join([machine(result), *(SHOW[name](suite) for name, suite in result["suites"].items())]))
    if config.out:
        with replacing(Path(config.out)) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        click.echo(f"\n{config.out}")


def machine(result: dict[str, Any]) -> str:
    rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {name}" for name, rate in result["matrix_rates"].items())
    return f"{result['device']}\nmatrix product: {rates}"


def training(suite: dict[str, Any]) -> str:
    task = suite["task"]
    rows = [
        (
            name,
            row["precision"],
            f"{row['images_per_second']:.0f}",
            f"{row['ratio']:.2f}x",
            f"{row['share_of_limit']:.0%}",
            f"{row['loss_second_half']:.3f}",
            f"{row['peak_memory_mb']:.0f}",
        )
        for name, row in suite["rows"].items()
    ]
    head = f"training, {task['arch']}, PGD-{task['steps']}, {task['norm']} {task['eps']}, batch {task['batch_size']}"
    return head + "\n" + table(("", "precision", "img/s", "ratio", "of limit", "loss", "peak MB"), rows)


def attack(suite: dict[str, Any]) -> str:
    task = suite["task"]
    rows = [
        (
            name,
            row["precision"],
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.2f}x",
            f"{row['robust_accuracy']:.1%}",
            f"{row['peak_memory_mb']:.0f}",
        )
        for name, row in suite["rows"].items()
    ]
    head = f"attack, PGD-{task['steps']}, {task['norm']} {task['eps']}, n = {suite['n']}"
    limit = f"all samples in fp32 at the matrix rate: {suite['fp32_limit_seconds']:.2f} s"
    return f"{head}\n{limit}\n" + table(("", "precision", "seconds", "ratio", "robust", "peak MB"), rows)


SHOW = {"train": training, "attack": attack}
