"""Addresses, answers and refusals of the application, from the client's side."""

import asyncio
import base64
import io
import json
import threading
import time

import numpy
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")
TestClient = pytest.importorskip("starlette.testclient").TestClient

from robustcls.core.errors import InputError  # noqa: E402
from robustcls.serving.app import application  # noqa: E402
from robustcls.serving.config import ServeConfig  # noqa: E402
from robustcls.serving.service import Service  # noqa: E402
from tests.helpers.serving import (  # noqa: E402
    CLASSES,
    SIZE,
    binary_request,
    by_hand,
    json_request,
    logits_of,
    small_artefact,
    some_images,
)

INFER = "/v2/models/small/infer"


@pytest.fixture
def start(artefact):
    """Start a service for the artefact, or for the given ones; all services are stopped at the end."""
    clients = []

    def started(*specs, **options):
        service = Service.of([str(one) for one in specs or [f"small={artefact}"]], ServeConfig(**options))
        client = TestClient(application(service), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        client.portal.call(service.until_ready, 60)
        return client, service

    yield started
    for client in clients:
        client.__exit__(None, None, None)


def refusals(client):
    lines = client.get("/metrics").text.splitlines()
    found = [line.split('"') for line in lines if line.startswith("robustcls_rejected_total")]
    return {reason: float(value.strip("} ")) for _, reason, value in found if float(value.strip("} "))}


def test_the_answer_is_the_files_to_the_last_bit(start, artefact):
    client, _ = start()
    images = some_images(1)
    expected = by_hand(artefact, images.astype(numpy.float32) / 255)
    answer = client.post(INFER, json=json_request(images.astype(numpy.float32) / 255, id="mine"))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["id"] == "mine"
    numpy.testing.assert_array_equal(logits_of(found), expected)
    assert [one["name"] for one in found["outputs"]] == ["logits", "probabilities", "label"]
    assert found["outputs"][2]["data"] == [CLASSES[expected.argmax()]]
    probabilities = numpy.exp(expected - expected.max()) / numpy.exp(expected - expected.max()).sum()
    numpy.testing.assert_allclose(found["outputs"][1]["data"], probabilities.ravel(), rtol=1e-6)


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
def test_raw_tensors_give_the_same(datatype, start, artefact):
    client, _ = start()
    images = some_images(3)
    content, headers = binary_request(images if datatype == "UINT8" else images.astype(numpy.float32) / 255, datatype)
    answer = client.post(INFER, content=content, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.content[:length])
    assert [one["parameters"]["binary_data_size"] for one in head["outputs"]][:2] == [36, 36]
    logits = numpy.frombuffer(answer.content[length : length + 36], "<f4").reshape(3, 3)
    numpy.testing.assert_array_equal(logits, by_hand(artefact, images.astype(numpy.float32) / 255))


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(numpy.asarray(pixels).transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def files_request(*files):
    data = [base64.b64encode(one).decode() for one in files]
    return {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(files)], "data": data}]}


def test_encoded_images_give_the_same(start, artefact):
    client, _ = start()
    images = some_images(4)
    answer = client.post(INFER, json=files_request(*map(png, images))).json()
    numpy.testing.assert_array_equal(logits_of(answer), by_hand(artefact, images.astype(numpy.float32) / 255))


def test_more_images_than_a_batch_are_answered_in_their_order(start, artefact):
    client, _ = start(batch=4)
    images = some_images(11)
    answer = client.post(INFER, json=json_request(images, "UINT8")).json()
    numpy.testing.assert_allclose(logits_of(answer), by_hand(artefact, images.astype(numpy.float32) / 255), rtol=1e-5)


def test_many_clients_at_once_get_each_their_own(start, artefact):
    client, service = start()
    images = some_images(64)
    expected = by_hand(artefact, images.astype(numpy.float32) / 255)
    found = [None] * len(images)

    def ask(at):
        found[at] = logits_of(client.post(INFER, json=json_request(images[at : at + 1], "UINT8")).json())

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numpy.testing.assert_allclose(numpy.concatenate(found), expected, rtol=1e-5, atol=1e-6)
    assert service.queues[0].images == 0
    assert service.held == 0


def test_what_a_client_must_know(start, artefact):
    client, service = start()
    version = service.queues[0].model.version
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").status_code == 200
    about = client.get("/v2/models/small").json()
    assert about["versions"] == [version]
    assert about["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, *SIZE]}]
    assert about["parameters"]["sha256"].startswith(version)
    for path in (
        "/v2/models/small/ready",
        f"/v2/models/small/versions/{version}",
        f"/v2/models/small/versions/{version}/ready",
    ):
        assert client.get(path).status_code == 200


def test_two_versions_stand_side_by_side(start, artefact, artefact8):
    client, service = start(f"small={artefact}", f"small={artefact8}")
    old, new = (queue.model.version for queue in service.queues)
    sent = json_request(some_images(1), "UINT8")
    answers = [client.post(f"/v2/models/small/versions/{one}/infer", json=sent).json() for one in (old, new)]
    assert [one["model_version"] for one in answers] == [old, new]
    assert not numpy.allclose(*map(logits_of, answers))
    assert client.post(INFER, json=sent).json()["model_version"] == new


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v2/models/other", "GET", 404),
        ("/v2/models/other/infer", "POST", 404),
        ("/v2/models/small/versions/1/infer", "POST", 404),
        ("/v2/models/small/infer", "GET", 405),
        ("/other", "GET", 404),
        ("/v2/", "GET", 404),
        ("/v2/models/../../etc/passwd", "GET", 404),
    ],
)
def test_an_address_that_is_none_is_refused_as_json(path, method, status, start):
    client, _ = start()
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_a_body_beyond_the_limit_is_refused(start):
    client, service = start(max_body=0.01)
    answer = client.post(INFER, content=b"x" * 20_000)
    assert answer.status_code == 413
    assert "10485 are allowed" in answer.json()["error"]
    assert client.post(INFER, content=(b"x" * 5000 for _ in range(4))).status_code == 413  # a body of unknown length
    assert refusals(client) == {"size": 2}
    assert service.held == 0


def test_a_compressed_body_is_refused(start):
    client, _ = start()
    assert client.post(INFER, content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    for none in ("IDENTITY", ""):
        answer = client.post(INFER, content=b"x", headers={"content-encoding": none})
        assert "is not JSON" in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"not an image", png(some_images(1)[0])[:-30], b"\xff\xd8\xff\xe0" + bytes(100)]
)
def test_what_is_no_image_is_refused_and_the_rest_is_answered(content, start):
    client, service = start()
    answer = client.post(INFER, json=files_request(png(some_images(1)[0]), content))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("image 1: ")
    assert "\n" not in answer.json()["error"]
    assert client.post(INFER, json=files_request(png(some_images(1)[0]))).status_code == 200
    assert refusals(client) == {"decoding": 1}


def test_a_full_queue_says_when_to_try_again(start):
    client, service = start(queue=1, batch=1)
    queue = service.queues[0]
    held = threading.Event()
    compute = queue._compute

    async def slow(process, batch):
        while not held.is_set():
            await asyncio.sleep(0.01)
        await compute(process, batch)

    queue._compute = slow
    found = []
    sent = json_request(some_images(1), "UINT8")
    threads = [threading.Thread(target=lambda: found.append(client.post(INFER, json=sent))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(found) < 6:
        time.sleep(0.01)
    held.set()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status_code for answer in found)
    assert statuses == [200, 200] + [503] * 6  # one request is computed, one waits
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in found if answer.status_code == 503)
    assert refusals(client) == {"busy": 6}


def test_no_request_is_written_out_to_be_answered(start, monkeypatch):
    """The error of a deque about a missing element would format the element with all its pixels."""
    written = []
    monkeypatch.setattr("robustcls.serving.queue.Job.__repr__", lambda job: written.append(job) or "job")
    client, _ = start()
    assert client.post(INFER, json=json_request(some_images(2), "UINT8")).status_code == 200
    assert written == []


def test_a_request_that_takes_too_long_is_told_so(start):
    client, service = start(timeout=0.2)

    async def never(process, batch):
        await asyncio.sleep(1)

    service.queues[0]._compute = never
    answer = client.post(INFER, json=json_request(some_images(1), "UINT8"))
    assert answer.status_code == 504
    assert refusals(client) == {"deadline": 1}
    assert service.queues[0].images == 0


def test_a_fault_of_ours_shows_nothing_to_the_client(start):
    client, service = start()
    told = []
    service.say = told.append

    async def broken(*arguments):
        raise RuntimeError("secret")

    service.infer = broken
    answer = client.post(INFER, json=json_request(some_images(1), "UINT8"))
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert "secret" in told[0]


def test_it_is_no_longer_live_after_a_fault_that_only_a_restart_mends(start):
    client, service = start(timeout=1.0)
    assert client.get("/v2/health/live").json() == {"live": True}
    queue = service.queues[0]

    def broken(outcome, images):
        raise ZeroDivisionError("a fault of ours")

    queue._observe = broken
    answers = [client.post(INFER, json=json_request(some_images(1), "UINT8")).status_code for _ in range(2)]
    assert answers[1] == 503
    for path in ("live", "ready"):
        answer = client.get(f"/v2/health/{path}")
        assert answer.status_code == 503
        assert "ZeroDivisionError" not in answer.text


def test_metrics_count_what_was_answered(start, artefact):
    client, service = start()
    images = some_images(20)
    client.post(INFER, json=json_request(images, "UINT8"))
    labels = by_hand(artefact, images.astype(numpy.float32) / 255).argmax(1)
    text = client.get("/metrics").text
    names = f'model="small",version="{service.queues[0].model.version}"'
    for number, label in enumerate(CLASSES):
        assert f'robustcls_predictions_total{{label="{label}",{names}}} {float((labels == number).sum())}' in text
    assert f"robustcls_batch_images_sum{{{names}}} 20.0" in text
    assert f"robustcls_confidence_ratio_count{{{names}}} 20.0" in text
    assert "robustcls_ready 1.0" in text
    assert f"robustcls_model_evaluated{{{names}}} 0.0" in text


def test_no_series_is_made_by_what_clients_send(start):
    client, _ = start()
    sent = json_request(some_images(1), "UINT8")

    def series_after(which):
        for at in which:
            client.post(f"/v2/models/{at}/infer", json=sent)
            client.get(f"/v2/models/{at}/versions/{at}")
            client.get(f"/{at}")
            client.post(INFER, content=str(at))
            client.request(f"VERB{at}", INFER)
        client.post(INFER, json=sent)
        return len(client.get("/metrics").text.splitlines())

    series_after(range(1))
    assert series_after(range(1, 2)) == series_after(range(2, 40))


def test_drift_is_told_when_a_window_is_full(start):
    client, service = start()
    white = numpy.full((250, *SIZE), 255, numpy.uint8)
    client.post(INFER, json=json_request(white, "UINT8"))
    assert service.queues[0].model.drift.statistics is None
    client.post(INFER, json=json_request(white, "UINT8"))
    assert service.queues[0].model.drift.statistics.max() > service.queues[0].model.drift.threshold
    assert 'robustcls_drift_windows_total{drifted="true"' in client.get("/metrics").text


def test_the_same_file_twice_is_refused(artefact):
    with pytest.raises(InputError, match="given twice"):
        Service.of([f"a={artefact}", f"a={artefact}"], ServeConfig())


def test_a_name_that_cannot_be_in_an_address_is_refused(artefact):
    with pytest.raises(InputError, match="use letters, digits"):
        Service.of([f"a/b={artefact}"], ServeConfig())


def test_an_evaluation_of_another_file_is_not_shown(tmp_path):
    folder = small_artefact(tmp_path / "small")
    from tests.helpers.sample_evaluation import sample_evaluation

    evaluation = sample_evaluation()
    evaluation.model.sha256 = "0" * 64
    evaluation.save(folder / "evaluation.json")
    service = Service.of([str(folder)], ServeConfig())
    assert service.queues[0].model.evaluation is None
    assert "is the evaluation of another file" in service.queues[0].model.notes[0]
