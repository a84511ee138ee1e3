"""robustcls monitor: files for an artefact, the screen and exit status of a running service."""

import subprocess
import sys

import pytest

from robustcls.serving.monitoring import reading
from tests.helpers.fake_service import FakeService, serving, write_artefact


@pytest.fixture
def artefact(tmp_path):
    return write_artefact(tmp_path / "artefact")


@pytest.fixture
def service():
    found = FakeService()
    found.tick()
    with serving(found) as address:
        found.url = f"http://{address}"
        yield found


def test_files_are_written_and_what_is_missing_is_said(cli, artefact):
    result = cli("monitor", artefact, "--write", "out", "--latency", 0.25, "--name", "letters")
    assert (result.status, result.out) == (
        0, "out: prometheus.yml, rules.yml, rules_test.yml, alertmanager.yml, dashboard.json\n",
    )  # fmt: skip
    words = " ".join(result.err.split())
    assert "counted up to 0.2 s" in words
    assert "has no evaluation" in words
    assert "RobustclsNotEvaluated will fire" in words
    assert 'model="letters"' in (artefact.parent / "here" / "out" / "rules.yml").read_text()
    assert cli("monitor", artefact, "--write", "out").status == 0  # existing files are replaced
    assert (
        'model="artefact"' in (artefact.parent / "here" / "out" / "rules.yml").read_text()
    )  # the name under which robustcls serve serves it
    (artefact / "model.onnx").write_text("another file")
    result = cli("monitor", artefact, "--write", "out2")
    assert result.status == 2
    assert "not the file that manifest.json describes" in result.err


SCREEN = """\
{url}  ready
  traffic    100 requests since its start, 0 failed (0.00%), 1 in flight
  latency    p50 7.5 ms, p99 9.95 ms of a request
  refused    none

digits  version d957c78ad75f  int8
  file       sha256 d957c78ad957, evaluation of this file
  robust     43.1% [40.0%, 46.2%] under linf 8/255
  reference  largest difference of a logit: 2e-06
  queue      2 of 128 requests
  batches    100, 1.0 images on average; computed in p50 3.5 ms, p99 4.97 ms
  predicted  cat: 34.0%, dog: 33.0%, owl: 33.0%
  confidence 0.900 on average, median about 0.85
  drift      dog: 0.060, cat: 0.050, owl: 0.050; threshold 0.112; 0 of 1 windows
             had drifted
  restarts   0 of workers
"""


def test_the_screen_of_a_healthy_service(cli, service):
    result = cli("monitor", service.url)
    assert (result.status, result.err) == (0, "")
    assert result.out == SCREEN.format(url=service.url)


def test_a_service_that_is_not_ready_has_drifted_and_misses_a_bound(cli, service):
    service.drifted, service.failing = True, 0.5
    service.tick()
    service.metrics.ready.set(0)
    (service_policy := "policy.toml")
    with open(service_policy, "w") as file:
        file.write("max_error_share = 0.01\nmin_robust = 0.4\n")
    result = cli("monitor", service.url, "--policy", service_policy)
    assert result.status == 1
    assert "NOT READY" in result.out
    assert "failed  not ready: its worker is gone" in result.out
    assert "dog: 0.300 !" in result.out
    assert "failed  digits: drift of output dog" in result.out
    assert "failed  requests that failed 25.0%, required at most 1.0%" in result.out
    assert "met     digits: robust accuracy 43.1%" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_an_interval_around_its_bound_is_open_as_by_the_gate(cli, service):
    with open("policy.toml", "w") as file:
        file.write("min_robust = 0.42\nmin_clean = 0.9\n")
    result = cli("monitor", service.url, "--policy", "policy.toml")
    assert result.status == 3
    assert "robustcls gate: min_clean" in " ".join(result.err.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "asks for nothing of a service"),
        ('norm = "l2"\neps = 1.0\n', "norm and eps need min_robust"),
        ("evaluated = true", ""),
    ],
)
def test_a_policy_that_asks_for_nothing_says_so(cli, service, text, words):
    with open("policy.toml", "w") as file:
        file.write(text)
    result = cli("monitor", service.url, "--policy", "policy.toml")
    assert result.status == 0
    assert (words in " ".join(result.err.split())) if words else not result.err


def test_many_classes_long_and_hostile_names_stay_within_80_columns(cli):
    service = FakeService(name="n" * 200 + "\x1b[2J")
    for number in range(1000):
        service.metrics.predictions.labels(*service.of, f"class {number} \x1b[31m" + "x" * 90).inc(number)
        service.metrics.drift.labels(*service.of, f"class {number}" + "y" * 90).set(number / 1000)
    with serving(service) as address:
        result = cli("monitor", f"http://{address}")
    assert result.status == 1
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 80
    assert len(result.out.splitlines()) < 60


def test_nothing_that_answers_is_one_line_and_status_2(cli):
    result = cli("monitor", "http://127.0.0.1:1")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert "does not answer" in result.err


def test_watching_goes_on_when_the_service_goes_away_and_ends_by_ctrl_c(cli, service, monkeypatch):
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 1:
            service.tick(10)
        elif len(naps) == 2:
            service.answers = False
        elif len(naps) == 3:
            service.answers = True
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("robustcls.cli.monitor.time.sleep", sleep)
    result = cli("monitor", service.url, "--watch", 2)
    assert (result.status, naps) == (0, [2.0] * 4)
    first, second, third = result.out.split("traffic")[1:]
    assert "100 requests since its start" in first
    assert "10 requests in 0 s" in second
    assert "does not answer" in second
    assert "110 requests since its start" in third


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["here"], "--write FOLDER"),
        (["http://127.0.0.1:1", "--write", "out"], "about an artefact"),
        (["http://127.0.0.1:1", "--slo", 0.99], "about an artefact"),
        (["here", "--write", "out", "--watch", 1], "about a running service"),
        (["http://127.0.0.1:1", "--watch", 0], "--watch"),
        (["nowhere", "--write", "out"], "no artefact"),
        (["ftp://host"], "not the address of a service"),
        (["http://127.0.0.1:1", "--policy", "none.toml"], "cannot read none.toml"),
    ],
)
def test_wrong_usage(cli, arguments, words):
    result = cli("monitor", *arguments)
    assert result.status == 2
    assert words in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("package", ["prometheus_client", "yaml"])
def test_a_missing_extra_is_named(cli, artefact, package, monkeypatch):
    for name in [one for one in sys.modules if one.startswith(("robustcls.serving.m", package))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("monitor", artefact, "--write", "out")
    assert result.status == 2
    assert result.err == f"robustcls: robustcls monitor needs {package}: pip install 'robustcls[serve]'\n"


def test_neither_form_imports_torch(artefact, service):
    for words in ([str(artefact), "--write", str(artefact.parent / "out")], [service.url]):
        code = (
            "import sys\nfrom robustcls.cli.main import main\n"
            f"try:\n    main({['monitor', *words]!r})\nexcept SystemExit as end:\n"
            "    print('torch' in sys.modules, end.code)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_the_reader_asks_only_two_paths(service, monkeypatch):
    asked = []
    get = reading._get
    monkeypatch.setattr(reading, "_get", lambda url: asked.append(url) or get(url))
    reading.read(service.url)
    assert asked == [f"{service.url}/v2/health/ready", f"{service.url}/metrics"]
