"""The metrics of a real `robustcls serve`: the tools of Prometheus accept them, and the screen shows them."""

import subprocess
import sys

import pytest

from tests.helpers.prometheus import promtool
from tests.helpers.serving import binary_request, running, small_artefact, some_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    pytest.importorskip("onnxscript")
    folder = small_artefact(tmp_path_factory.mktemp("artefact") / "small")
    with running("--model", folder) as found:
        assert found.until(found.ready)
        for number in range(3):
            assert found.ask("/v2/models/small/infer", *binary_request(some_images(4, number)))[0] == 200
        assert found.ask("/v2/models/small/infer", {"inputs": []})[0] == 400
        yield found


def monitor(*arguments):
    return subprocess.run([sys.executable, "-m", "robustcls", "monitor", *arguments], capture_output=True, text=True)


def test_a_running_service_is_shown(service):
    done = monitor(service.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{service.address}  ready" in done.stdout
    assert "4 requests since its start, 0 failed (0.00%)" in done.stdout
    assert "refused    protocol: 25.0%" in done.stdout
    assert "4.0 images on average" in done.stdout
    assert "NO evaluation of this file" in done.stdout


def test_a_policy_that_asks_for_an_evaluation_fails(service, tmp_path):
    (tmp_path / "policy.toml").write_text("evaluated = true\nmax_error_share = 0.0\n")
    done = monitor(service.address, "--policy", str(tmp_path / "policy.toml"))
    assert done.returncode == 1
    assert "failed  small: no evaluation of the served file" in done.stdout
    assert "met     requests that failed 0.0%" in done.stdout


def test_promtool_takes_its_metrics(service):
    done = promtool("check", "metrics", stdin=service.ask("/metrics")[1])
    assert done.returncode == 0, done.stderr
