"""`robustcls serve`."""

from functools import partial

import click

from robustcls.cli.console import note
from robustcls.cli.options import GroupedCommand, build, config_option, options
from robustcls.core.errors import InputError
from robustcls.serving.config import ServeConfig

NEEDS = "serve needs Starlette, uvicorn and prometheus-client: pip install 'robustcls[serve]'"
NEEDS_RAY = "`engine=ray` needs Ray Serve: pip install 'robustcls[serve,ray]'"


@click.command("serve", cls=GroupedCommand)
@click.option(
    "--model", "models", required=True, multiple=True, metavar="DIR",
    help="Folder that robustcls export wrote, or NAME=DIR; repeatable.",
)  # fmt: skip
@config_option
@options(ServeConfig)
def command(flags: dict, config_file: str | None, models: tuple[str, ...]) -> None:
    """Serve artefacts over HTTP, by the Open Inference Protocol v2, with health endpoints and metrics.

    The service is reachable from this machine only, unless you set --host. On SIGTERM it reports that it is not ready, and
    stops after it has answered the accepted requests.

    \b
      robustcls serve --model artefact
      robustcls serve --model digits=artefact --port 8000 --host 0.0.0.0
      robustcls serve --model artefact --engine ray --replicas 1:4
      curl -s http://127.0.0.1:8080/v2/models/artefact
    """
    config = build(ServeConfig, flags, config_file)
    from robustcls.serving.model import check_names

    check_names(models)
    try:
        from robustcls.serving.server import serve

        if config.engine == "ray":
            from robustcls.serving.ray_engine import serve
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "ray":
            raise InputError(NEEDS_RAY) from None
        if missing not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        raise InputError(NEEDS) from None
    serve(models, config, partial(note, quiet=config.quiet))
