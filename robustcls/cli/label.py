"""`robustcls label`."""

from functools import partial

import click

from robustcls.cli.console import note, wrap
from robustcls.cli.options import MODEL_HELP, GroupedCommand, build, config_option, options
from robustcls.training.label_config import LabelConfig


@click.command("label", cls=GroupedCommand)
@click.option("--model", required=True, metavar="M", help=MODEL_HELP)
@click.option("--out", required=True, metavar="FILE.npz", help="Output file for the labels.")
@config_option
@options(LabelConfig)
def command(flags: dict, config_file: str | None, model: str, out: str) -> None:
    """Label images with a model, the teacher, so that another model can be trained on them.

    Writes FILE.npz, which needs no pickle: the predicted class and its probability for each image, the class names, and
    the SHA-256 digests of the images and of the teacher. Train with
    `robustcls train --unlabelled SPEC --pseudo-labels FILE.npz`, where SPEC must be the same images.

    \b
      robustcls label --model ckpt.pt --data rest --out labels.npz
      robustcls label --model ckpt.pt --data folder:new --out labels.npz
    """
    config = build(LabelConfig, flags, config_file)

    from robustcls.training.label import label_spec

    labels = label_spec(
        model, out, config, inputs=[config_file] if config_file else [], say=partial(note, quiet=config.quiet)
    )
    counts = labels.labels.bincount(minlength=len(labels.classes)).tolist()
    click.echo(f"{out}: {len(labels)} labels, mean confidence {labels.confidence.mean().item():.0%}")
    click.echo(wrap("  " + ", ".join(f"{name} {count}" for name, count in zip(labels.classes, counts, strict=True)), 2))
