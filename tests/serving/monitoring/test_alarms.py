"""A real Prometheus and Alertmanager: each alert fires on its fault, and none fires without a fault."""

import contextlib
import time
import urllib.request

import pytest
import yaml

from robustcls.serving.monitoring.config import MonitorConfig
from robustcls.serving.monitoring.dashboard import dashboard, queries
from robustcls.serving.monitoring.files import alertmanager, prometheus
from robustcls.serving.monitoring.rules import rules
from robustcls.serving.monitoring.target import Target
from tests.helpers.fake_service import FakeService, serving
from tests.helpers.prometheus import alerts_of, free_port, program, query, running, until, webhook

SPEED = 60  # an hour in the rules becomes a minute
HISTORY, PATIENCE = 40, 150  # seconds without a fault, and until all alerts fired
BUDGETS = ("Fast", "Medium", "Slow")


def unready(one):
    one.metrics.ready.set(0)


def full(one):
    one.metrics.queued.labels(*one.of).set(120)


def restarting(one):
    one.metrics.restarts.labels(*one.of).inc(3)


FAULTS = {  # job: options of the service, what happens to it later, the expected alerts
    "robustcls": ({}, None, ()),
    "failing": ({}, {"failing": 0.5}, [f"RobustclsErrorBudget{one}" for one in BUDGETS]),
    "slow": ({}, {"slow": 0.5}, [f"RobustclsLatencyBudget{one}" for one in BUDGETS]),
    "gone": ({}, {"answers": False}, ["RobustclsAbsent"]),
    "untold": (None, None, ["RobustclsAbsent"]),
    "unready": ({}, unready, ["RobustclsNotReady"]),
    "full": ({}, full, ["RobustclsQueueNearlyFull"]),
    "refusing": ({}, {"refused": 0.3}, ["RobustclsRejections"]),
    "restarting": ({}, restarting, ["RobustclsWorkerRestarts"]),
    "unknown": ({"name": "letters"}, None, ["RobustclsModelAbsent"]),
    "replaced": ({"sha256": "0" * 64}, None, ["RobustclsOtherFile"]),
    "unjudged": ({"evaluated": False}, None, ["RobustclsNotEvaluated"]),
    "differing": ({}, FakeService.break_reference, ["RobustclsReferenceDifference"]),
    "drifting": ({}, {"drifted": True}, ["RobustclsDrift"]),
    "leaning": ({}, {"first": 0.8}, ["RobustclsLabelShare"]),
    "unsure": ({}, {"confidence": 0.6}, ["RobustclsConfidence"]),
}
EXPECTED = {(job, name) for job, (_, _, names) in FAULTS.items() for name in names}


def target(job, **addresses):
    options = MonitorConfig(**addresses)
    return Target(name="digits", sha256=FakeService().sha256, logit_bound=1e-3, options=options, job=job, speed=SPEED)


def test_every_alert_has_a_fault():
    assert {name for _, name in EXPECTED} == alerts_of(target("robustcls"))


def firing(base, expr='ALERTS{alertstate="firing"}'):
    return {
        (one["metric"]["job"], one["metric"]["alertname"]) for one in query(base, f"group by (job, alertname) ({expr})")
    }


@pytest.mark.slow
def test_each_alert_fires_on_its_fault_and_none_without(tmp_path):
    programs = program("prometheus"), program("prometheus-alertmanager")
    services = {job: FakeService(**made) for job, (made, _, _) in FAULTS.items() if made is not None}
    ports = free_port(), free_port()
    base, manager = (f"http://127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        addresses = {job: stack.enter_context(serving(one)) for job, one in services.items()}
        receiver, received = stack.enter_context(webhook())
        write_configuration(tmp_path, addresses, manager.removeprefix("http://"), receiver)
        stack.enter_context(
            running(
                [programs[1], "--config.file=alertmanager.yml", f"--storage.path={tmp_path / 'manager'}",
                 "--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{ports[1]}"],
                tmp_path / "alertmanager.log", f"{manager}/-/ready",
            )
        )  # fmt: skip
        stack.enter_context(
            running(
                [programs[0], "--config.file=prometheus.yml", f"--storage.tsdb.path={tmp_path / 'data'}",
                 "--web.enable-lifecycle", f"--web.listen-address=127.0.0.1:{ports[0]}"],
                tmp_path / "prometheus.log", f"{base}/-/ready",
            )
        )  # fmt: skip

        def traffic(seconds, reached=lambda: False):
            end = time.monotonic() + seconds
            while time.monotonic() < end and not reached():
                for one in services.values():
                    one.tick(20)
                time.sleep(1)

        def missed():
            """Return services whose scrape really took too long, as on a busy machine; for these, the alert is right."""
            return {(one["metric"]["job"], "RobustclsAbsent") for one in query(base, "min_over_time(up[1h]) == 0")}

        # Prometheus takes a few seconds until its first scrape. This is little compared with the two minutes in the rules, but
        # much compared with the two seconds that they become here.
        traffic(30, lambda: len(query(base, "up == 1")) == len(services))
        write_rules(tmp_path)
        urllib.request.urlopen(f"{base}/-/reload", data=b"", timeout=10).close()
        traffic(HISTORY)
        from_the_start = {(job, name) for job, (_, fault, names) in FAULTS.items() if fault is None for name in names}
        assert from_the_start <= firing(base) <= from_the_start | missed()
        check_dashboard(base)
        for job, (_, fault, _) in FAULTS.items():
            if callable(fault):
                fault(services[job])
            elif fault:
                vars(services[job]).update(fault)
        seen = set()
        traffic(PATIENCE, lambda: seen.update(firing(base)) or seen >= EXPECTED)
        ever = firing(base, 'max_over_time(ALERTS{alertstate="firing"}[1h])')
        absent = missed()
        assert EXPECTED <= ever <= EXPECTED | absent

        def told():
            return {(one["labels"]["job"], one["labels"]["alertname"]) for one in list(received)}

        until(lambda: told() >= EXPECTED, 30)
        assert EXPECTED <= told() <= EXPECTED | absent
        assert all(
            one["annotations"]["summary"] and "<no value>" not in one["annotations"]["description"] for one in received
        )


def write_configuration(folder, addresses, manager, receiver):
    """Write the files of `robustcls monitor`, but for all jobs in one Prometheus and with short intervals."""
    whole = prometheus(target("robustcls", alertmanager=manager))
    whole["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    whole["rule_files"] = [f"rules-{job}.yml" for job in FAULTS]
    whole["scrape_configs"] = [
        one for job, address in addresses.items() for one in prometheus(target(job, target=address))["scrape_configs"]
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(whole))
    routes = alertmanager(target("robustcls"))
    routes["receivers"][0]["webhook_configs"][0]["url"] = receiver
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(routes))


def write_rules(folder):
    for job in FAULTS:
        (folder / f"rules-{job}.yml").write_text(yaml.safe_dump(rules(target(job))))


def check_dashboard(base):
    """Assert that each query has an answer for a healthy service."""
    found = queries(dashboard(target("robustcls")))
    assert len(found) >= 25
    for expr in found:
        samples = query(base, expr)
        assert samples, expr
        assert all(one["value"][1] != "NaN" for one in samples), expr
