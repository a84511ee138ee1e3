"""Write the folder of `robustcls monitor DIR --write FOLDER`, atomically: either all of it is written or nothing."""

import json
from pathlib import Path
from typing import Any

import yaml

from robustcls import __version__
from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write, check_writable
from robustcls.core.folders import replaced_folder
from robustcls.serving.monitoring.cases import rule_tests
from robustcls.serving.monitoring.dashboard import dashboard
from robustcls.serving.monitoring.rules import rules
from robustcls.serving.monitoring.target import Target

RULES, TESTS, PROMETHEUS, ALERTMANAGER, DASHBOARD = (
    "rules.yml", "rules_test.yml", "prometheus.yml", "alertmanager.yml", "dashboard.json",
)  # fmt: skip
INTERVAL = "15s"
RECEIVER = "http://127.0.0.1:9099/"


def contents(target: Target) -> dict[str, str]:
    """Return the text of each file by its name."""
    head = f"# Made by robustcls {__version__} for {json.dumps(target.name)}, sha256 {target.sha256}\n"
    yamls = {
        PROMETHEUS: prometheus(target),
        RULES: rules(target),
        TESTS: rule_tests(target, RULES),
        ALERTMANAGER: alertmanager(target),
    }
    texts = {name: head + yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110) for name, data in yamls.items()}
    return texts | {DASHBOARD: json.dumps(dashboard(target), indent=2) + "\n"}


def write(target: Target, out: str | Path) -> list[str]:
    """Write the folder, or replace one that an earlier call wrote, and return the names of its files.

    Raises InputError, and changes nothing, if the folder contains other files or cannot be written.
    """
    out = Path(out)
    texts = contents(target)
    check_place(out)
    with replaced_folder(out, "`write`") as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return list(texts)


def check_place(out: Path) -> None:
    """Raise InputError if the folder cannot be written or contains other files; create nothing."""
    try:
        if out.is_dir():
            ours = {RULES, TESTS, PROMETHEUS, ALERTMANAGER, DASHBOARD}
            there = {one.name for one in out.iterdir()}
            if there and not (RULES in there and there <= ours):
                raise InputError(f"{out} contains other files than alert rules: name another folder with `write`")
        elif out.exists():
            raise InputError(f"{out} is a file: name a folder with `write`")
    except OSError as error:
        raise InputError(cannot_write(out, error, "`write`")) from None
    check_writable(out / "any", "`write`")
    check_writable(out.resolve().parent / "any", "`write`")


def prometheus(target: Target) -> dict[str, Any]:
    """Return the content of prometheus.yml."""
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [target.options.alertmanager]}]}]},
        "scrape_configs": [{"job_name": target.job, "static_configs": [{"targets": [target.options.target]}]}],
    }


def alertmanager(target: Target) -> dict[str, Any]:
    """Return the content of alertmanager.yml, an example that posts to a receiver on this machine."""
    silent = "|".join(("RobustclsNotReady", "RobustclsModelAbsent"))
    return {
        "route": {
            "receiver": "webhook",
            "group_by": ["alertname", "job", "model"],
            "group_wait": target.span("30s"),
            "group_interval": target.span("5m"),
            "repeat_interval": target.span("4h"),
            "routes": [
                {"matchers": ['severity="ticket"'], "receiver": "webhook", "repeat_interval": target.span("3d")}
            ],
        },
        "inhibit_rules": [  # a service that is down is not also reported as not ready
            {
                "source_matchers": ['alertname="RobustclsAbsent"'],
                "target_matchers": [f'alertname=~"{silent}"'],
                "equal": ["job"],
            },
        ],
        "receivers": [{"name": "webhook", "webhook_configs": [{"url": RECEIVER, "send_resolved": True}]}],
    }


class _Dumper(yaml.SafeDumper):
    """A YAML dumper without anchors, which make the files harder to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
