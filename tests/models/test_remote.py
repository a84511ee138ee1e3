"""A running service as a model: it is sent 8-bit images, and its answers are the verdict."""

import json
import os
import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image

import robustcls
from robustcls.cli.main import main
from robustcls.core.errors import InputError
from robustcls.core.traits import traits
from robustcls.evaluation.checks import run_checks
from robustcls.models import remote
from robustcls.models.remote import LENGTH, RemoteNet, remote_of
from robustcls.results.records import Evaluation
from tests.helpers.serving import CLASSES, SIZE, by_hand, running, small_artefact

SHA256 = "0123456789ab" + "c" * 52
ROOM = "linf:8/255"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    pytest.importorskip("onnxscript")
    return small_artefact(tmp_path_factory.mktemp("remote") / "small")


@pytest.fixture(scope="module")
def service(artefact):
    with running("--model", f"small={artefact}", "--drain", "0") as found:
        assert found.until(found.ready)
        yield found


@pytest.fixture(scope="module")
def url(service):
    return f"{service.address}/v2/models/small"


@pytest.fixture(scope="module")
def data(artefact):
    """Return 8-bit images, half of them close to the boundary of the model, and labels that the model gives them: uint8
    N,C,H,W and int64 N."""
    draws = numpy.random.default_rng(3)
    colour, noise = draws.integers(40, 216, (600, 3, 1, 1)), draws.integers(-40, 40, (600, *SIZE))
    pixels = (colour + noise).clip(0, 255).astype(numpy.uint8)
    logits = by_hand(artefact, pixels.astype(numpy.float32) / numpy.float32(255))
    top = numpy.sort(logits, 1)
    nearest = (top[:, -1] - top[:, -2]).argsort()
    chosen = numpy.concatenate([nearest[:20], nearest[20::29]])
    return pixels[chosen], logits[chosen].argmax(1)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Return a folder with the same images, for the command."""
    home = tmp_path_factory.mktemp("images")
    for label in CLASSES:
        (home / "test" / label).mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(*data, strict=True)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(home / "test" / CLASSES[label] / f"{number:03d}.png")
    return home


def tensors(data):
    pixels, labels = data
    return torch.from_numpy(pixels).float() / 255, torch.from_numpy(labels)


@pytest.fixture
def run_cli(capsys):
    """Return a function that runs the command line and returns exit status, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return SimpleNamespace(returncode=ended.value.code or 0, **capsys.readouterr()._asdict())

    return run


@traits(gradients=False)
def deadly(model, x, y, threat):
    """An attack that kills the service."""
    os.kill(int(os.environ["DEADLY"]), signal.SIGKILL)
    return model(x)


def answered(service):
    """Return the number of images, as counted by the service."""
    return service.metric("robustcls_predictions_total")


class Fake(BaseHTTPRequestHandler):
    """A server that answers with status, headers and body as given by `script(method, path, body)`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path))
        status, headers, content = self.server.script(self.command, self.path, body)
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@contextmanager
def faked(script):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.script, server.asked = script, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        server.url = f"http://127.0.0.1:{server.server_port}/v2/models/small"
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def metadata(**parameters):
    return {
        "name": "small", "versions": [SHA256[:12]], "platform": "x",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *SIZE]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
        "parameters": {"sha256": SHA256, "classes": list(CLASSES), **parameters},
    }  # fmt: skip


def told(value, status=200, **headers):
    return status, headers, json.dumps(value).encode()


def zeros(body, version=SHA256[:12]):
    """Return an answer in which the logits are the means of the channels."""
    end = body.index(b"}]}") + 3
    shape = json.loads(body[:end])["inputs"][0]["shape"]
    pixels = numpy.frombuffer(body[end:], dtype=numpy.uint8).reshape(shape)
    logits = pixels.mean((2, 3)).astype("<f4").tobytes()
    output = {
        "name": "logits",
        "datatype": "FP32",
        "shape": [shape[0], 3],
        "parameters": {"binary_data_size": len(logits)},
    }
    head = json.dumps({"model_version": version, "outputs": [output]}).encode()
    return 200, {LENGTH: str(len(head))}, head + logits


# What is sent to the service


def test_logits_are_the_services_of_images_rounded_to_eight_bits(url, artefact, data):
    x, _ = tensors(data)
    model = robustcls.load(url)
    off_grid = (x + 0.3 / 255).clamp(0, 1)
    with torch.no_grad():
        found = model(torch.cat([x, off_grid]))
    expected = by_hand(artefact, x.numpy())
    assert numpy.allclose(found[:40], expected, atol=1e-4)
    assert torch.equal(found[40:], found[:40])
    assert model.classes == CLASSES
    assert model.input_size == SIZE
    assert not model.differentiable


def test_many_images_go_in_requests_of_a_few_dozen_and_are_counted(service, url):
    net, before = RemoteNet(url), answered(service)
    requests = 'http_server_request_duration_seconds_count{http_request_method="POST"'
    asked = service.metric(requests)
    with torch.no_grad():
        assert net(torch.rand(70, *SIZE)).shape == (70, 3)
    assert service.metric(requests) - asked == 3
    assert answered(service) - before == net.queries == 70


def test_a_version_is_an_address_of_its_own(url, artefact):
    version = json.loads((artefact / "manifest.json").read_text())["file"]["sha256"][:12]
    assert RemoteNet(f"{url}/versions/{version}/").version == RemoteNet(url).version == version
    with pytest.raises(InputError, match="refuses .404.: no version 'other'"):
        RemoteNet(f"{url}/versions/other")


# What an evaluation finds


def test_square_finds_over_http_what_it_finds_on_the_file_and_counts_its_queries(service, url, artefact, data):
    x, y = tensors(data)
    on_file = robustcls.evaluate(robustcls.load(artefact), x, y, ROOM, attacks=["square(queries=100)"])
    before, model = answered(service), robustcls.load(url)
    over_http = robustcls.evaluate(model, x, y, ROOM, attacks=["square(queries=100)"])
    assert 0 < on_file.robust.correct < on_file.clean.correct == 40
    assert abs(over_http.robust.correct - on_file.robust.correct) <= 1
    asked = over_http.provenance.service
    assert asked.queries == remote_of(model).queries == answered(service) - before
    assert asked.queries >= sum(attack.forwards for attack in over_http.attacks) > 0
    assert (asked.url, over_http.model.name, over_http.model.sha256[:12]) == (url, url, asked.version)
    assert over_http.threat.knowledge.startswith("black box")


def test_a_second_evaluation_counts_its_own_queries(url, data):
    x, y = tensors(data)
    model = robustcls.load(url)
    first, second = (robustcls.evaluate(model, x[:8], y[:8], ROOM, attacks=["noise(draws=2)"]) for _ in range(2))
    assert first.provenance.service.queries == second.provenance.service.queries
    assert remote_of(model).queries == 2 * second.provenance.service.queries


@pytest.mark.parametrize("threat", ["linf:0.05", "l2:0.6"])  # 0.05 is not a whole number of grey levels
def test_examples_fool_the_service_as_png(service, url, data, tmp_path, threat):
    x, y = tensors(data)
    found = robustcls.evaluate(robustcls.load(url), x, y, threat, attacks=["square(queries=100)"])
    rows = found.examples.success.nonzero().squeeze(1)
    x_adv = found.examples.x_adv[rows]
    levels = (x_adv * 255).round()
    assert len(rows) > 0
    assert torch.equal(levels / 255, x_adv)
    assert (
        robustcls.ThreatModel.parse(threat).distance(x_adv, x[rows]) <= float(threat.partition(":")[2]) + 1e-6
    ).all()
    files = []
    for number, pixels in enumerate(levels.byte().numpy()):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
        files.append((tmp_path / f"{number}.png").read_bytes())
    raw = b"".join(len(one).to_bytes(4, "little") + one for one in files)
    tensor = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [len(files)],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
    status, answer = service.ask("/v2/models/small/infer", head + raw, {LENGTH: str(len(head))})
    assert status == 200
    named = [CLASSES[label] for label in y[rows].tolist()]
    assert all(label != true for label, true in zip(answer["outputs"][0]["data"], named, strict=True))


@pytest.mark.parametrize("threat", ["linf:0.002", "linf:0.0039", "l2:0.003", "l1:0.001"])
def test_a_radius_below_one_grey_level_is_refused(url, data, threat):
    """The ball contains no other 8-bit image, so every correct sample would be robust."""
    x, y = tensors(data)
    model = robustcls.load(url)
    for attempt in (
        lambda: robustcls.evaluate(model, x, y, threat, attacks=["square(queries=5)"]),
        lambda: robustcls.attack(model, x, y, threat, "square(queries=5)"),
    ):
        with pytest.raises(InputError, match="is less than a grey level") as caught:
            attempt()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("eps", "words"),
    [("0.003", "--eps 0.003 is less than a grey level"), ("0.03", "attacks search in linf:7/255"), ("8/255", "")],
)
def test_the_command_names_the_radius_that_was_searched(url, folder, tmp_path, run_cli, eps, words):
    attack = ["--eps", eps, "--attack", "noise", "-n", "4", "--out", tmp_path / "found.json"]
    done = run_cli("attack", "--model", url, "--data", f"folder:{folder}", *attack)
    said = " ".join(done.err.split())
    assert (done.returncode == 2) == (eps == "0.003"), said
    assert words in said if words else "attacks search" not in said


def test_white_box_by_the_twin_finds_what_it_finds_on_the_file(url, artefact, data):
    x, y = tensors(data)
    on_file = robustcls.evaluate(robustcls.load(artefact), x, y, ROOM, attacks=["pgd(steps=10)"])
    model = robustcls.load(url, twin=artefact)
    over_http = robustcls.evaluate(model, x, y, ROOM, attacks=["pgd(steps=10)"])
    assert 0 < on_file.robust.correct < 40
    assert abs(over_http.robust.correct - on_file.robust.correct) <= 1
    assert over_http.provenance.service.twin
    assert "white box by a twin" in over_http.threat.knowledge
    [served] = [check for check in over_http.checks if check.id == "served"]
    assert served.status == "pass"
    assert "64 have the file's label" in served.message


def test_attack_gives_the_images_that_are_sent(url, data):
    x, y = tensors(data)
    model = robustcls.load(url)
    x_adv = robustcls.attack(model, x, y, "linf:0.05", "square(queries=20)")
    assert torch.equal((x_adv * 255).round() / 255, x_adv)
    assert 12 / 255 - 1e-6 < (x_adv - x).abs().max() < 0.05
    with torch.no_grad():
        assert (model(x_adv).argmax(1) != y).any()


def test_a_twin_of_another_file_is_told_by_the_check(url, data, tmp_path):
    x, y = tensors(data)
    other = small_artefact(tmp_path / "other", seed=1)
    found = robustcls.evaluate(robustcls.load(url, twin=other), x[:8], y[:8], ROOM, attacks=["fgsm"])
    [served] = [check for check in found.checks if check.id == "served"]
    assert served.status == "fail"
    assert served.measured > served.threshold
    assert "does not run this file" in served.message
    assert "the service names file" in served.message


def test_a_twin_that_is_no_artefact_is_compared_by_labels(url, artefact, data):
    x, y = tensors(data)
    file = str(artefact / "model.onnx")
    with pytest.warns(UserWarning, match="assumed to take"):
        model = robustcls.load(url, twin=file)
    found = robustcls.evaluate(model, x[:8], y[:8], ROOM, attacks=["fgsm"])
    [served] = [check for check in found.checks if check.id == "served"]
    assert served.status == "pass"
    assert served.message.startswith("100.0% of 8 labels")


def test_gradient_attacks_need_a_twin(url, data):
    with pytest.raises(InputError, match="name the artefact that it serves with `twin`"):
        robustcls.evaluate(robustcls.load(url), *tensors(data), ROOM, attacks=["pgd(steps=2)"])


# The command


def test_the_command_attacks_and_prints_the_queries(service, url, folder, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    before, out = answered(service), tmp_path / "evaluation.json"
    done = run_cli(
        "attack", "--model", url, "--data", f"folder:{folder}", "--eps", "8/255", "--attack", "square(queries=40)",
    )  # fmt: skip
    assert done.returncode == 0, done.err
    found = Evaluation.load(out)
    asked = int(answered(service) - before)
    assert found.provenance.service.queries == asked
    shown = " ".join(done.out.split())
    assert f"version {found.provenance.service.version}: {asked:,} images answered" in shown
    assert found.model.name == url
    again = ["--data", f"folder:{folder}", "--eps", "8/255", "--attack", "noise", "-n", "4"]
    assert (
        run_cli("attack", "--model", f"{url}/", *again).returncode == 0
    )  # the same model, so its evaluation may be replaced


def test_report_says_when_service_and_file_differ(url, folder, artefact, tmp_path, run_cli):
    other = small_artefact(tmp_path / "other", seed=1)
    small = ["--profile", "quick", "-n", "8", "--attack", "fgsm", "--eps", "8/255", "--examples", "2", "--maps-n", "2"]
    for twin, words in ((artefact, "64 have the file&#39;s label"), (other, "does not run this file")):
        out = tmp_path / "report.html"
        done = run_cli(
            "report", "--model", url, "--twin", twin, "--data", f"folder:{folder}", *small, "--out", out, "--overwrite"
        )
        assert done.returncode == 0, done.err
        page = out.read_text(encoding="utf-8")
        assert words in page.replace("&#x27;", "&#39;")
        assert "Images that it classified" in page
        assert url in page


def test_a_service_that_dies_leaves_what_was_done(artefact, folder, tmp_path, monkeypatch, run_cli):
    out = tmp_path / "evaluation.json"
    command = ["--data", f"folder:{folder}", "--eps", "8/255", "--attack", "square(queries=100)", "--attack",
               "tests.models.test_remote:deadly", "--out", str(out)]  # fmt: skip
    with running("--model", f"small={artefact}", "--drain", "0") as found:
        assert found.until(found.ready)
        monkeypatch.setenv("DEADLY", str(found.child.pid))
        done = run_cli("attack", "--model", f"{found.address}/v2/models/small", *command)
    last = done.err.strip().splitlines()[-1]
    assert done.returncode == 2
    assert "does not answer" in last
    assert "--resume" in done.err
    assert (tmp_path / "evaluation.json.partial").is_dir()
    assert not out.exists()


def test_a_service_that_dies_after_the_attacks_leaves_the_evaluation(artefact, folder, tmp_path, monkeypatch, run_cli):
    out = tmp_path / "report.html"
    with running("--model", f"small={artefact}", "--drain", "0") as found:
        assert found.until(found.ready)

        def check_and_die(*arguments):
            checks = run_checks(*arguments)
            os.kill(found.child.pid, signal.SIGKILL)
            found.child.wait()
            return checks

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("robustcls.evaluation.evaluate.run_checks", check_and_die)
        done = run_cli(
            "report", "--model", f"{found.address}/v2/models/small", "--data", f"folder:{folder}", "--profile", "quick",
            "-n", "8", "--attack", "square(queries=5)", "--eps", "8/255", "--corruptions-n", "4", "--out", out,
        )  # fmt: skip
    assert done.returncode == 2
    assert "does not answer" in done.err.strip().splitlines()[-1]
    left = Evaluation.load(tmp_path / "evaluation.json")
    assert [attack.name for attack in left.attacks] == ["square"]
    assert "does not answer" in left.not_run["corruptions"]


# Errors


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9/v2/models/small", "does not answer .* is `robustcls serve` running there"),
        ("http://127.0.0.1:9", "names no model of a service"),
        ("http://127.0.0.1:9/v2/models/small/infer", "names no model of a service"),
        ("http://127.0.0.1:9/v2/models/small?x=1", "names no model of a service"),
        ("http://127.0.0.1:x/v2/models/small", "is not an address"),
        ("http://me:word@127.0.0.1:9/v2/models/small", "is not the address of a host"),
        ("https://127.0.0.1:9/v2/models/small", "https is not supported"),
    ],
)
def test_an_address_that_is_none_is_one_line(address, words):
    with pytest.raises(InputError, match=words) as error:
        robustcls.load(address)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {}, b"<html>"), "is not a model of robustcls serve"),
        (told({"name": "small"}), "no valid versions"),
        (told(metadata(sha256="12")), "no SHA-256"),
        (told(metadata(threat={"norm": "linf"})), "no valid parameters.threat.eps"),
        (told({**metadata(), "inputs": [{"name": "images", "shape": [-1, 3]}]}), "does not take images N,C,H,W"),
        (told({**metadata(), "outputs": []}), "has no output logits"),
        ((404, {}, b"Not Found"), "refuses .404."),
        (told({"error": "no\x1b[2Jt\nhere"}, 404), r"refuses .404.: no\[2Jthere"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), "redirects, which is not followed"),
    ],
)
def test_a_service_that_is_none_is_one_line(answer, words):
    with faked(lambda *asked: answer) as server, pytest.raises(InputError, match=words) as error:
        robustcls.load(server.url)
    assert str(error.value).isprintable()
    assert server.asked == [("GET", "/v2/models/small")]


def test_proxies_of_the_environment_are_not_asked(url, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert RemoteNet(url).classes == CLASSES


def test_a_busy_service_is_waited_for(monkeypatch):
    waits, refusals = [], ["2", "soon"]
    monkeypatch.setattr(remote.time, "sleep", waits.append)

    def script(method, path, body):
        if method == "GET":
            return told(metadata())
        return told({"error": "busy"}, 503, **{"Retry-After": refusals.pop(0)}) if refusals else zeros(body)

    with faked(script) as server, torch.no_grad():
        net = RemoteNet(server.url)
        logits = net(torch.ones(1, *SIZE))
    assert waits == [2.0, 1.0]
    assert logits.tolist() == [[255.0] * 3]
    assert net.queries == 1


def test_waiting_for_a_busy_service_has_an_end(monkeypatch):
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    with faked(
        lambda method, *asked: (
            told(metadata()) if method == "GET" else told({"error": "full"}, 503, **{"Retry-After": "7"})
        )
    ) as server:
        net = RemoteNet(server.url)
        with pytest.raises(InputError, match="is busy, and refused for .*: full"):
            net(torch.ones(1, *SIZE))
    assert 0 < sum(waits) <= remote.PATIENCE
    assert net.failed


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda body: told({"error": "values are odd"}, 400), "refuses .400.: values are odd"),
        (lambda body: told({"error": "draining"}, 503), "refuses .503.: draining"),
        (lambda body: told({"outputs": []}), "answers something else"),
        (lambda body: zeros(body, version="other"), "now answers by version other"),
        (lambda body: (200, {LENGTH: "4"}, b"null"), "answers something else"),
        (lambda body: zeros(body[: -12 * 12 * 3].replace(b"[2, 3,", b"[1, 3,")), "answers something else"),
    ],
)
def test_an_answer_that_is_none_is_one_line(answer, words):
    with faked(lambda method, path, body: told(metadata()) if method == "GET" else answer(body)) as server:
        net = RemoteNet(server.url)
        with pytest.raises(InputError, match=words):
            net(torch.ones(2, *SIZE))
    assert net.queries == 0


def test_a_connection_that_was_closed_while_idle_is_opened_again():
    def script(method, path, body):
        return told(metadata()) if method == "GET" else zeros(body)

    with faked(script) as server:
        net = RemoteNet(server.url)
        net._wire.connection.sock.shutdown(2)
        assert net(torch.zeros(1, *SIZE)).shape == (1, 3)


def test_other_classes_or_sizes_than_the_datas_are_refused(url, folder, tmp_path, run_cli):
    for command, words in (
        (["--data", "digits", "--eps", "0.1"], "knows 3 classes"),
        (["--data", f"folder:{folder}", "--eps", "8/255", "--attack", "pgd"], "--twin"),
        (["--data", f"folder:{folder}", "--eps", "8/255", "--twin", url, "--attack", "pgd"], "is a service"),
    ):
        done = run_cli("attack", "--model", url, *command, "--out", tmp_path / "evaluation.json")
        assert done.returncode == 2
        assert words in done.err
        assert "Traceback" not in done.err
    other = tmp_path / "others"
    for label in ("owl", "tree"):
        (other / "test" / label).mkdir(parents=True)
        Image.new("RGB", (12, 12)).save(other / "test" / label / "0.png")
    done = run_cli("attack", "--model", url, "--data", f"folder:{other}", "--attack", "square", "--eps", "8/255")
    assert done.returncode == 2
    assert "owl" in done.err


def test_a_twin_without_a_service_is_refused(artefact):
    with pytest.raises(InputError, match="is not a service and needs no `twin`"):
        robustcls.load(artefact, twin=artefact)


def test_a_service_is_not_exported(url, tmp_path):
    with pytest.raises(InputError):
        robustcls.export(robustcls.load(url), tmp_path / "out", calibration=torch.rand(64, *SIZE))


def test_the_threat_of_training_is_the_services():
    threat = {"norm": "linf", "eps": 0.15}
    with faked(lambda *asked: told(metadata(threat=threat))) as server:
        assert RemoteNet(server.url).threat == threat
    with faked(lambda *asked: told(metadata())) as server:
        assert RemoteNet(server.url).threat == {}
