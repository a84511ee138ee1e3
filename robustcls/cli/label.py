"""`robustcls label`."""

from functools import partial

import click

from robustcls.cli.console import note, wrap
from robustcls.cli.options import MODEL_HELP, GroupedCommand, build, config_option, options
from robustcls.training.label_config import LabelConfig


@click.command("label", cls=GroupedCommand)
@click.option("--model", required=True, metavar="M", help=MODEL_HELP)
@click.option("--out", required=True, metavar="FILE.npz", help="File for the labels.")
@config_option
@options(LabelConfig)
def command(flags: dict, config_file: str | None, model: str, out: str) -> None:
    """Label images by a model, the teacher, so that another can be trained on them.

    Writes FILE.npz with the class of each image, the probability that the teacher gives it, the classes, and the SHA-256 of
    the images and of the teacher, without pickle: `robustcls train --unlabelled SPEC --pseudo-labels FILE.npz` takes it
    for these images alone.

    \b
      robustcls label --model ckpt.pt --data rest --out labels.npz
      robustcls label --model ckpt.pt --data folder:new --out labels.npz
    """
    config = build(LabelConfig, flags, config_file)

    from robustcls.training.label import label_spec

    found = label_spec(
        model, out, config, inputs=[config_file] if config_file else [], say=partial(note, quiet=config.quiet)
    )
    counts = found.labels.bincount(minlength=len(found.classes)).tolist()
    click.echo(f"{out}: {len(found)} labels, sure to {found.confidence.mean().item():.0%} on average")
    click.echo(wrap("  " + ", ".join(f"{name} {count}" for name, count in zip(found.classes, counts, strict=True)), 2))
