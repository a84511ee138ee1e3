"""`robustcls export`."""

from functools import partial
from pathlib import Path

import click

from robustcls.cli.console import note
from robustcls.cli.options import MODEL_HELP, GroupedCommand, build, config_option, options
from robustcls.deploy.config import ExportConfig


@click.command("export", cls=GroupedCommand)
@click.option("--model", required=True, metavar="M", help=MODEL_HELP)
@click.option("--out", required=True, metavar="DIR", help="Folder for the artefact; an earlier one there is replaced.")
@click.option("--overwrite", is_flag=True, help="Replace a folder that holds something else, too.")
@config_option
@options(ExportConfig)
def command(flags: dict, config_file: str | None, model: str, out: str, overwrite: bool) -> None:
    """Export a model to one ONNX file that runs without PyTorch; check it against the model.

    Writes DIR with model.onnx (float32 N,C,H,W in [0, 1] to logits, normalisation inside), manifest.json, reference.npz and
    drift.npz, once every label and all logits agree. DIR is a --model for every other command.

    \b
      robustcls export --model ckpt.pt --out artefact
      robustcls export --model ckpt.pt --out artefact8 --quantize int8
    """
    config = build(ExportConfig, flags, config_file)

    from robustcls.deploy.artefact import export_spec

    made = export_spec(
        model, out, config, overwrite=overwrite, inputs=[config_file] if config_file else [],
        say=partial(note, quiet=config.quiet),
    )  # fmt: skip
    click.echo(f"{Path(out)}: {made.manifest.kind}, {made.manifest.file.bytes / 1e6:.2f} MB")
