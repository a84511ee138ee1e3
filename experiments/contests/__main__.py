"""`python -m experiments.contests`."""

import json
from typing import Any

import click

from experiments.contests.config import ContestConfig
from experiments.contests.tables import render
from robustcls.cli.console import note, table
from robustcls.cli.main import main
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.core.files import atomic_write, check_writable


@click.command(cls=GroupedCommand)
@config_option
@options(ContestConfig)
def command(flags: dict[str, Any], config_file: str | None) -> None:
    """Compare training, attacks, explanations and serving with a plain fp32 loop and the other libraries that are installed.

    Each library runs in its own process, in rounds; ratios are computed within a round. The limit is the arithmetic of the
    network divided by the rate of a large matrix product, measured on this machine.

    The train suite also measures which share of an epoch validation takes, and memory over epochs.

    The attack suite has four contests: pgd, at equal steps (the default); fast, beside the two APGD attacks of AutoAttack's
    own code; autoattack, the suites standard and fast beside all of that code; single, each attack of AutoAttack beside the
    same attack of that code. All examples are verified again.

    The cuda suite trains and evaluates whole architectures. The explain suite measures images per second of each attribution
    method, beside captum called image by image. The serve suite puts load on robustcls serve, FastAPI with eager torch and
    FastAPI with ONNX Runtime in turns, each on one processor, from a client on another.

    \b
      python -m experiments.contests --suite train --arch "vgg16(width=1.0)" --rounds 5
      python -m experiments.contests --suite attack --model ckpt.pt --n 512 --out bench.json
      python -m experiments.contests --suite attack --contest all --model mylab.models:net
      python -m experiments.contests --suite serve --model ckpt.pt --out bench.json
      python -m experiments.contests --suite cuda --arch vgg16 --data cifar10 --out bench.json
    """
    from experiments.contests.contest import run_contests

    config = build(ContestConfig, flags, config_file)
    if config.out:
        check_writable(config.out, inputs=[one for one in (config.model, config_file) if one])

    def save(result: dict[str, Any]) -> None:
        if config.out:
            with atomic_write(config.out) as part:
                part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    result = run_contests(config, lambda text: note(text, config.quiet), save)
    save(result)
    click.echo(render(result, table))
    if config.out:
        click.echo(f"\n{config.out}")


if __name__ == "__main__":
    main(command=command, name="python -m experiments.contests")
