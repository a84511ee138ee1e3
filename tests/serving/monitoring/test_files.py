"""The folder written by `robustcls monitor DIR --write FOLDER`: the tools of Prometheus accept all of it."""

import json
import re
from collections import Counter

import numpy
import pytest
import yaml

from robustcls.core.errors import InputError
from robustcls.serving.model import ServedModel
from robustcls.serving.monitoring import files
from robustcls.serving.monitoring.cases import cases, rule_tests
from robustcls.serving.monitoring.config import MonitorConfig
from robustcls.serving.monitoring.dashboard import dashboard, queries
from robustcls.serving.monitoring.rules import rules
from robustcls.serving.monitoring.target import Target
from tests.helpers.fake_service import FakeService
from tests.helpers.prometheus import alerts_of, program, promtool

NAMES = {"prometheus.yml", "rules.yml", "rules_test.yml", "alertmanager.yml", "dashboard.json"}


def target(**options):
    name = options.pop("name", "digits")
    return Target(name=name, sha256="ab" * 32, logit_bound=2e-3, options=MonitorConfig(**options))


def checked(folder, *arguments):
    done = promtool(*arguments, cwd=folder)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-3000:]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slo": 0.95, "latency": 7.5, "latency_slo": 0.9999, "min_requests": 1, "target": "[::1]:9"},
        {"name": "a \"quoted\" \\ name: 'ü' {{ $labels.x }} #"},
    ],
)
def test_promtool_takes_rules_and_configuration(options, tmp_path):
    files.write(target(**options), tmp_path / "out")
    checked(tmp_path / "out", "check", "config", "prometheus.yml")
    checked(tmp_path / "out", "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"slo": 0.95, "latency_slo": 0.9999, "min_requests": 5000, "name": 'a "b"'}],
    ids=["default", "others"],
)
def test_each_alert_fires_and_stays_silent_as_its_cases_say(options, tmp_path):
    files.write(target(**options), tmp_path / "out")
    checked(tmp_path / "out", "test", "rules", "rules_test.yml")


@pytest.mark.parametrize("broken", ["vector(1)", "vector(0) == 1"], ids=["always", "never"])
def test_the_cases_find_alerts_that_always_or_never_fire(broken, tmp_path):
    """Otherwise, the test cases of the rules would prove nothing."""
    found = target()
    content = rules(found)
    for group in content["groups"]:
        group["rules"] = [one | {"expr": broken} for one in group["rules"] if "alert" in one]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(content))
    (tmp_path / "rules_test.yml").write_text(yaml.safe_dump(rule_tests(found, "rules.yml")))
    done = promtool("test", "rules", "rules_test.yml", cwd=tmp_path)
    assert done.returncode == 1
    if broken == "vector(1)":  # correct for cases that only look at this alert and expect it to fire
        wrong = sum(not (one.alone and one.fires) for one in cases(found))
    else:
        wrong = sum(bool(one.fires) for one in cases(found))
    assert (done.stdout + done.stderr).count(b"exp:") == wrong


def test_each_alert_has_a_case_that_fires_and_one_that_is_silent():
    found = target()
    names = alerts_of(found)
    assert len(names) == 18
    assert {one.alert for one in cases(found) if one.alert in one.fires} == names
    assert {one.alert for one in cases(found) if one.alert not in one.fires} == names


def test_how_long_each_alert_holds_and_how_urgent_it_is():
    """The test cases of the rules do not cover the severity."""
    found = {
        one["alert"].removeprefix("Robustcls"): (one["labels"]["severity"], one.get("for", "")) for one in alert_rules()
    }
    assert found == {
        **{f"{kind}BudgetFast": ("page", "1m") for kind in ("Error", "Latency")},
        **{f"{kind}BudgetMedium": ("page", "5m") for kind in ("Error", "Latency")},
        **{f"{kind}BudgetSlow": ("ticket", "30m") for kind in ("Error", "Latency")},
        "Absent": ("page", "2m"), "NotReady": ("page", "1m"), "QueueNearlyFull": ("page", "1m"),
        "Rejections": ("ticket", "2m"), "WorkerRestarts": ("page", ""),
        "ModelAbsent": ("page", "2m"), "OtherFile": ("ticket", "5m"), "NotEvaluated": ("ticket", "5m"),
        "ReferenceDifference": ("page", ""), "Drift": ("ticket", ""), "LabelShare": ("ticket", "5m"),
        "Confidence": ("ticket", "5m"),
    }  # fmt: skip


def alert_rules():
    return [one for group in rules(target())["groups"] for one in group["rules"] if "alert" in one]


def test_every_query_of_the_dashboard_is_promql(tmp_path):
    found = queries(dashboard(target()))
    rows = [{"record": f"dashboard:query:{number}", "expr": expr} for number, expr in enumerate(found)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rows}]}))
    checked(tmp_path, "check", "rules", "queries.yml")


def test_panels_of_the_dashboard_neither_overlap_nor_stick_out():
    places = [one["gridPos"] for one in dashboard(target())["panels"]]
    cells = Counter((x, p["y"]) for p in places for x in range(p["x"], p["x"] + p["w"]))
    assert set(cells.values()) == {1}
    assert max(x for x, _ in cells) < 24
    assert {one["type"] for one in dashboard(target())["panels"]} <= {"stat", "timeseries"}


def test_every_metric_that_is_asked_for_exists():
    """This covers the rules and the dashboard. An alert on a misspelt metric would never fire."""
    service = FakeService()
    service.tick()
    there = {sample.name for family in service.metrics.registry.collect() for sample in family.samples}
    texts = files.contents(target())
    recorded = {one["record"] for group in rules(target())["groups"] for one in group["rules"] if "record" in one}
    for name in ("rules.yml", "dashboard.json"):
        asked = set(re.findall(r"\b(?:robustcls|http_server)_\w+(?=\{)", texts[name].replace("\\", "")))
        used = set(re.findall(r"\b(?:job|model):robustcls_\w+:\w+", texts[name]))
        assert {one for one in asked if f":{one}" not in texts[name]} <= there, name
        assert used <= recorded
        assert len(asked) >= 10


def test_promtool_takes_the_metrics_themselves():
    service = FakeService()
    service.tick()
    done = promtool("check", "metrics", stdin=service.text())
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_alertmanager_takes_its_configuration(tmp_path):
    import subprocess

    files.write(target(), tmp_path / "out")
    done = subprocess.run(
        [program("amtool"), "check-config", "alertmanager.yml"], cwd=tmp_path / "out", capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_the_bound_of_a_logit_is_the_manifests_share_of_the_largest(artefact):
    with numpy.load(artefact / "reference.npz") as reference:
        largest = abs(reference["logits"]).max()
    manifest = json.loads((artefact / "manifest.json").read_text())
    found = Target.of(ServedModel.of(str(artefact)), MonitorConfig())
    assert found.logit_bound == pytest.approx(manifest["reference_tolerance"] * largest)
    assert (found.name, found.sha256) == ("artefact", manifest["file"]["sha256"])


@pytest.mark.parametrize("content", [b"", b"PK\3\4 a zip file that ends"])
def test_a_damaged_reference_is_one_line(content, artefact):
    (artefact / "reference.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*reference\.npz"):
        Target.of(ServedModel.of(str(artefact)), MonitorConfig())


@pytest.mark.parametrize(
    ("asked", "counted"), [(0.2, 0.2), (0.25, 0.2), (99, 10.0), (0.0005, 0.0005), (0.3 - 0.1, 0.2)]
)
def test_latency_is_counted_to_a_bound_of_the_histogram_that_is_not_above_it(asked, counted):
    assert target(latency=asked).latency_bound == counted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slo": 1.0}, "not an objective"),
        ({"slo": 0.9}, "0.95 or more"),
        ({"latency_slo": float("nan")}, "not an objective"),
        ({"min_requests": 0}, "1 or more"),
        ({"target": "localhost"}, "HOST:PORT"),
        ({"target": "localhost:99999"}, "HOST:PORT"),
        ({"alertmanager": "a b:1"}, "HOST:PORT"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        MonitorConfig(**options)


@pytest.mark.parametrize("latency", [0, 0.0001, -1, float("nan"), float("inf")])
def test_a_latency_that_cannot_be_counted_is_refused_before_anything_is_written(latency, tmp_path):
    with pytest.raises(InputError, match="cannot be measured"):
        files.write(target(latency=latency), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_earlier_folder_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    assert set(files.write(target(name="first"), out)) == NAMES
    (out / "dashboard.json").unlink()
    files.write(target(name="second"), out)
    assert {one.name for one in out.iterdir()} == NAMES
    assert "first" not in "".join(one.read_text() for one in out.iterdir())
    assert [one.name for one in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("names", [["notes.txt"], ["rules.yml", "notes.txt"], ["dashboard.json"]])
def test_a_folder_that_holds_something_else_is_left_alone(names, tmp_path):
    for name in names:
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="contains other files"):
        files.write(target(), tmp_path)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == dict.fromkeys(names, "mine")


def test_an_error_in_the_middle_leaves_the_earlier_folder(tmp_path, monkeypatch):
    files.write(target(name="first"), tmp_path / "out")
    before = {one.name: one.read_text() for one in (tmp_path / "out").iterdir()}
    texts = files.contents(target(name="second"))
    monkeypatch.setattr(files, "contents", lambda target: {**texts, "no/such/place": ""})
    with pytest.raises(InputError, match="cannot write"):
        files.write(target(name="second"), tmp_path / "out")
    assert {one.name: one.read_text() for one in (tmp_path / "out").iterdir()} == before
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
