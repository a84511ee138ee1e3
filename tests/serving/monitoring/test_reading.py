"""Reading /metrics: histograms against closed forms, counters since an earlier reading, and addresses without a service."""

import math

import pytest

from robustcls.core.errors import InputError
from robustcls.serving.monitoring.reading import Histogram, Reading, base_of, read
from robustcls.serving.monitoring.state import State
from tests.helpers.fake_service import FakeService, serving


def reading(service, at=0.0):
    return Reading.parse(service.text().decode(), True, at)


@pytest.mark.parametrize(
    ("share", "value"),
    [(0.5, 1.0), (0.25, 0.5), (0.75, 1.5), (0.99, 2.0), (1.0, 2.0), (0.0, 0.0)],
)
def test_a_quantile_lies_linearly_within_its_bucket(share, value):
    """10 values lie up to 1, and 10 between 1 and 2, the last bound."""
    found = Histogram(((1.0, 10.0), (2.0, 20.0), (math.inf, 20.0)), 20.0, 20.0)
    assert found.quantile(share) == pytest.approx(value if share < 0.99 else 2.0, abs=0.021)


def test_what_lies_above_the_last_bound_is_given_as_that_bound():
    assert Histogram(((1.0, 1.0), (math.inf, 10.0)), 90.0, 10.0).quantile(0.99) == 1.0


def test_nothing_measured_is_none():
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean is None
    state = State.of(reading(FakeService()))
    assert (state.requests.quantile(0.99), state.error_share, state.rejected_share) == (None, None, None)


def test_the_state_is_what_the_service_counted():
    service = FakeService()
    service.failing, service.refused, service.first = 0.1, 0.2, 0.5
    service.tick(100)
    state = State.of(reading(service))
    assert (state.requests.count, state.failed, state.rejected) == (100, 10, {"decoding": 20})
    assert (state.error_share, state.rejected_share) == (0.1, 0.2)
    (model,) = state.models
    assert model.images == 70
    assert model.predictions["cat"] == 35
    assert (model.confidence.mean, model.batch.mean) == (pytest.approx(0.9), 1)
    assert (model.robust[0].norm, model.robust[0].eps, model.robust[0].lower) == ("linf", "8/255", 0.4)
    assert not model.drifted
    service.drifted = True
    service.tick()
    assert State.of(reading(service)).models[0].drifted == ["dog"]


def test_probes_and_scrapes_are_no_requests():
    service = FakeService()
    service.metrics.request_seconds.labels("GET", "/v2/health/ready", "503").observe(1)
    state = State.of(reading(service))
    assert (state.requests.count, state.failed) == (0, 0)


def test_counters_since_an_earlier_reading():
    service = FakeService()
    service.tick(100)
    before = reading(service)
    service.failing = 0.5
    service.tick(10)
    state = State.of(now := reading(service), now.since(before))
    assert (state.requests.count, state.failed, state.models[0].images) == (10, 5, 5)
    assert state.requests.quantile(0.99) is not None
    anew = reading(FakeService())
    assert State.of(anew, anew.since(before)).requests.count == 0  # a restarted service counts from its start


def test_several_models_are_told_apart():
    service = FakeService()
    service.metrics.info.labels("letters", "1", "ff", "none").set(1)
    service.metrics.predictions.labels("letters", "1", "a").inc(7)
    digits, letters = State.of(reading(service)).models
    assert (digits.images, letters.images, letters.evaluated, letters.robust) == (0, 7, False, ())


@pytest.mark.parametrize("text", ["", "up 1\n", "robustcls_ready{ 1\n", "<html>", "robustcls_ready one\n", "\x00"])
def test_what_is_no_service_of_ours_is_said_in_one_line(text):
    with pytest.raises(InputError) as caught:
        Reading.parse(text, True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://host/models/metrics", "https://host/models"),
    ],
)
def test_addresses(url, base):
    assert base_of(url) == base


@pytest.mark.parametrize(
    "url",
    ["http://", "ftp://host", "file:///etc/passwd", "http://host:port", "http://h:99999", "http://u:p@h", "http://h?q=1",
     "http://h/a b\n", "http://h\u00fc"],
)  # fmt: skip
def test_addresses_that_are_refused(url):
    with pytest.raises(InputError, match="not the address of a service"):
        base_of(url)


def test_a_running_service_is_read(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # proxies are not used
    service = FakeService()
    with serving(service) as address:
        assert State.of(read(f"http://{address}")).ready
        service.metrics.ready.set(0)
        assert not State.of(read(f"http://{address}/metrics")).ready
        with pytest.raises(InputError, match="status 307"):  # a redirection is not followed
            read(f"http://{address}/elsewhere")
        service.answers = False
        with pytest.raises(InputError, match="does not answer"):
            read(f"http://{address}")
    with pytest.raises(InputError, match="is the service running"):
        read(f"http://{address}")
