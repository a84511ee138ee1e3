"""`robustcls export`."""

from functools import partial
from pathlib import Path

import click

from robustcls.cli.console import note
from robustcls.cli.options import MODEL_HELP, GroupedCommand, build, config_option, options
from robustcls.deploy.config import ExportConfig


@click.command("export", cls=GroupedCommand)
@click.option("--model", required=True, metavar="M", help=MODEL_HELP)
@click.option(
    "--out", required=True, metavar="DIR", help="Folder for the artefact; an earlier artefact in it is replaced."
)
@click.option("--overwrite", is_flag=True, help="Replace the folder even if it contains something else.")
@config_option
@options(ExportConfig)
def command(flags: dict, config_file: str | None, model: str, out: str, overwrite: bool) -> None:
    """Export a model to an ONNX file that runs without PyTorch, and check the file against the model.

    Writes the folder DIR with model.onnx, manifest.json, reference.npz and drift.npz, but only if all predicted classes and
    logits agree with the model. model.onnx maps images, float32 N,C,H,W in [0, 1], to logits and includes the normalisation.
    All other commands accept DIR as --model.

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
