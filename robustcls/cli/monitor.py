"""`robustcls monitor`."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.cli.console import mark, note, wrap
from robustcls.cli.options import GroupedCommand, options
from robustcls.core.errors import InputError
from robustcls.serving.monitoring.config import MonitorConfig

if TYPE_CHECKING:
    from robustcls.serving.monitoring.policy import ServicePolicy
    from robustcls.serving.monitoring.reading import Reading

STATUS = {"FAIL": 1, "INCONCLUSIVE": 3}
CLEAR = "\x1b[H\x1b[2J"


@click.command("monitor", cls=GroupedCommand)
@click.argument("place", metavar="DIR|URL")
@click.option(
    "--write", "out", metavar="FOLDER", help="For an artefact: folder for the files that Prometheus and Grafana read."
)
@click.option("--name", metavar="NAME", help="Name under which the model is served.  [default: the folder's name]")
@click.option("--policy", metavar="FILE.toml", help="For a URL: bounds that the service must meet.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For a URL: refresh the state at this interval.",
)
@options(MonitorConfig)
def command(place: str, flags: dict, name: str | None, out: str | None, policy: str | None, watch: float | None) -> int:
    """Monitor a service: write alert rules for an artefact, or show the state of a running service.

    For the artefact DIR, --write writes rules.yml and its tests, prometheus.yml, alertmanager.yml and dashboard.json.

    For a URL, shows the state of the service on one screen. The exit status is 0 if all is well; 1 if the service is not
    ready, has drifted or misses a bound of the policy; 3 if a bound cannot be judged, because traffic is too low or the
    interval contains the bound; 2 if the service does not answer.

    \b
      robustcls monitor artefact --write monitoring
      robustcls monitor http://127.0.0.1:8080 --policy service.toml
      robustcls monitor http://127.0.0.1:8080 --watch 5
    """
    try:
        if "://" in place:
            if out or name or flags:
                raise click.UsageError("--write and its options are about an artefact: give its folder, not a URL")
            return _show(place, policy, watch)
        if policy or watch:
            raise click.UsageError("--policy and --watch are about a running service: give its URL")
        if not out:
            raise click.UsageError(f"say where to write what watches {place}, with --write FOLDER, or give a URL")
        _write(place, name, out, MonitorConfig(**flags))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("prometheus_client", "yaml"):
            raise
        raise InputError(f"robustcls monitor needs {package}: pip install 'robustcls[serve]'") from None
    return 0


def _write(folder: str, name: str | None, out: str, config: MonitorConfig) -> None:
    from robustcls.serving.model import ServedModel
    from robustcls.serving.monitoring.files import write
    from robustcls.serving.monitoring.target import Target

    model = ServedModel.of(f"{name}={folder}" if name else folder)
    target = Target.of(model, config)
    names = write(target, out)
    if target.latency_bound < config.latency:
        note(
            f"latency is counted up to {target.latency_bound:g} s, the bound of the histogram below {config.latency:g} s"
        )
    for line in model.notes:
        note(line)
    if model.evaluation is None:
        note(f"RobustclsNotEvaluated will fire until {model.folder} was attacked")
    click.echo(f"{Path(out)}: {', '.join(names)}")


def _show(url: str, policy_file: str | None, watch: float | None) -> int:
    from robustcls.serving.monitoring.policy import ServicePolicy
    from robustcls.serving.monitoring.reading import base_of, read

    policy, others = ServicePolicy.load(policy_file) if policy_file else (ServicePolicy(), [])
    if others:
        note(f"not asked of a service but of its evaluation, by robustcls gate: {', '.join(others)}")
    if policy_file and policy.is_empty:
        note(f"{policy_file} asks for nothing of a service" + (": norm and eps need min_robust" if policy.norm else ""))
    url = base_of(url)
    if watch is None:
        return _print(url, read(url), None, policy)
    status, before = 0, None
    with suppress(KeyboardInterrupt):
        while True:
            try:
                now = read(url)
                status, before = _print(url, now, before, policy, clear=sys.stdout.isatty()), now
            except InputError as error:
                status, before = 2, None
                click.echo(f"{CLEAR if sys.stdout.isatty() else ''}{wrap(str(error))}")
            sys.stdout.flush()
            time.sleep(watch)
    return status


def _print(url: str, now: "Reading", before: "Reading | None", policy: "ServicePolicy", clear: bool = False) -> int:
    from robustcls.serving.monitoring.policy import judge
    from robustcls.serving.monitoring.screen import screen, wrapped
    from robustcls.serving.monitoring.state import State

    whole = State.of(now)
    shown = whole if before is None else State.of(now, now.since(before))
    findings = judge(whole, policy)
    lines = [screen(url, shown, None if before is None else now.at - before.at), *([""] if findings else [])]
    lines += [line for one in findings for line in wrapped(f"  {mark(one.status)}", one.text)]
    click.echo(f"{CLEAR if clear else ''}" + "\n".join(lines))
    statuses = {STATUS.get(one.status, 0) for one in findings}
    return next((one for one in (1, 3) if one in statuses), 0)
