"""`robustcls serve`."""

from functools import partial

import click

from robustcls.cli.console import note
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.core.errors import InputError
from robustcls.serving.config import ServeConfig

NEEDS = "serve needs Starlette, uvicorn and prometheus-client: pip install 'robustcls[serve]'"


@click.command("serve", cls=GroupedCommand)
@click.option(
    "--model", "models", required=True, multiple=True, metavar="DIR",
    help="Folder that export wrote, or NAME=DIR; repeatable.",
)  # fmt: skip
@config_option
@options(ServeConfig)
def command(flags: dict, config_file: str | None, models: tuple[str, ...]) -> None:
    """Serve artefacts over HTTP: Open Inference Protocol v2, health, metrics.

    Answers on this machine alone unless --host says otherwise. SIGTERM makes it unready, then answers what it has accepted.

    \b
      robustcls serve --model artefact
      robustcls serve --model digits=artefact --port 8000 --host 0.0.0.0
      curl -s http://127.0.0.1:8080/v2/models/artefact
    """
    config = build(ServeConfig, flags, config_file)
    try:
        from robustcls.serving.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        raise InputError(NEEDS) from None
    serve(models, config, partial(note, quiet=config.quiet))
