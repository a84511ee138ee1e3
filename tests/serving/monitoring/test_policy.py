"""A policy applied to a running service."""

import pytest

from robustcls.core.errors import InputError
from robustcls.serving.monitoring.policy import ServicePolicy, judge
from robustcls.serving.monitoring.reading import Reading
from robustcls.serving.monitoring.screen import screen
from robustcls.serving.monitoring.state import State
from tests.helpers.fake_service import FakeService


def state(service=None, ready=True, ticks=1):
    service = service or FakeService()
    for _ in range(ticks):
        service.tick()
    return State.of(Reading.parse(service.text().decode(), ready))


def statuses(found, **asked):
    return [one.status for one in judge(found, ServicePolicy(**asked))]


def test_without_a_policy_a_healthy_service_has_no_finding():
    assert judge(state(), ServicePolicy()) == []


def drifting():
    service = FakeService()
    service.drifted = True
    return service


def broken():
    service = FakeService()
    service.break_reference()
    return service


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (state(ready=False), "not ready"),
        (state(drifting()), "digits: drift of output dog: 0.3, threshold 0.112"),
        (state(broken()), "logits of the reference images are not finite"),
    ],
)
def test_what_is_wrong_without_a_policy(found, words):
    (finding,) = judge(found, ServicePolicy())
    assert finding.status == "FAIL"
    assert words in finding.text


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"min_robust": 0.4}, "PASS"),  # 43.1% [40.0%, 46.2%]
        ({"min_robust": 0.42}, "INCONCLUSIVE"),
        ({"min_robust": 0.47}, "FAIL"),
        ({"min_robust": 0.4, "norm": "linf", "eps": "8/255"}, "PASS"),
        ({"min_robust": 0.4, "norm": "linf", "eps": 8 / 255}, "PASS"),
        ({"min_robust": 0.4, "norm": "linf", "eps": "4/255"}, "FAIL"),
        ({"min_robust": 0.4, "norm": "l2", "eps": "8/255"}, "FAIL"),
        ({"evaluated": True}, "PASS"),
        ({"sha256": "d957c78a"}, "PASS"),
        ({"sha256": "ffff"}, "FAIL"),
        ({"sha256": ""}, "FAIL"),
        ({"max_p99_ms": 10.0}, "PASS"),  # all requests take 6 ms, in the bucket from 5 to 10 ms
        ({"max_p99_ms": 5.0}, "FAIL"),
        ({"max_p50_ms": 5.0}, "FAIL"),
        ({"max_error_share": 0.0}, "PASS"),
        ({"max_rejected_share": 0.0}, "PASS"),
        ({"max_queue_share": 0.5}, "PASS"),
        ({"max_queue_share": 0.01}, "FAIL"),
        ({"max_restarts": 0}, "PASS"),
        ({"min_confidence": 0.85}, "PASS"),
        ({"min_confidence": 0.95}, "FAIL"),
        ({"max_reference_difference": 1e-5}, "PASS"),
        ({"max_reference_difference": 1e-7}, "FAIL"),
    ],
)
def test_a_bound(asked, status):
    assert statuses(state(), **asked) == [status]


def test_bounds_without_traffic_are_open():
    asked = {"max_p99_ms": 5.0, "max_error_share": 0.1, "min_confidence": 0.5}
    assert statuses(state(ticks=0), **asked) == ["INCONCLUSIVE"] * 3


@pytest.mark.parametrize("asked", [{"evaluated": True}, {"min_robust": 0.1}, {"min_robust": 0.1, "evaluated": True}])
def test_an_evaluation_that_is_asked_for_and_missing_fails(asked):
    assert statuses(state(FakeService(evaluated=False)), **asked) == ["FAIL"]


def test_robust_accuracy_without_a_threat_model_is_open():
    service = FakeService(evaluated=False)
    service.metrics.evaluated.labels(*service.of).set(1)
    for gauge, value in (
        (service.metrics.robust, 0.9),
        (service.metrics.robust_lower, 0.8),
        (service.metrics.robust_upper, 1),
    ):
        gauge.labels(*service.of, "", "").set(value)
    found = state(service)
    assert statuses(found, min_robust=0.1) == ["INCONCLUSIVE"]
    assert statuses(found, min_robust=0.1, norm="linf", eps="8/255") == ["FAIL"]


def test_the_finding_names_the_threat_of_the_evaluation():
    (finding,) = judge(state(), ServicePolicy(min_robust=0.4))
    assert "robust accuracy 43.1% [40.0%, 46.2%] under linf 8/255, required at least 40.0%" in finding.text


@pytest.mark.parametrize("order", [("1/255", "8/255"), ("8/255", "1/255"), ("9/255", "8/255")])
def test_the_worst_of_several_evaluations_counts(order):
    service = FakeService(evaluated=False)
    service.metrics.evaluated.labels(*service.of).set(1)
    for eps in order:
        service.metrics.robust.labels(*service.of, "linf", eps).set(0.5)
        if eps == "8/255":  # only this one has an interval
            service.metrics.robust_lower.labels(*service.of, "linf", eps).set(0.45)
            service.metrics.robust_upper.labels(*service.of, "linf", eps).set(0.55)
    assert statuses(state(service), min_robust=0.4) == ["INCONCLUSIVE"]
    assert statuses(state(service), min_robust=0.6) == ["FAIL"]


@pytest.mark.parametrize(
    ("gone", "asked"),
    [
        ("robustcls_queue_requests", {"max_queue_share": 0.5}),
        ("robustcls_queue_capacity_requests", {"max_queue_share": 0.5}),
        ("robustcls_worker_restarts_total", {"max_restarts": 0}),
        ("robustcls_reference_logit_difference", {"max_reference_difference": 1e-5}),
    ],
)
def test_what_a_service_does_not_tell_is_open(gone, asked):
    service = FakeService()
    service.tick()
    lines = [one for one in service.text().decode().splitlines() if not one.startswith(gone + "{")]
    found = State.of(Reading.parse("\n".join(lines) + "\n", True))
    assert statuses(found, **asked) == ["INCONCLUSIVE"]
    assert screen("http://x", found)


def test_errors_and_refusals_are_shares_of_the_requests():
    service = FakeService()
    service.failing, service.refused = 0.1, 0.2
    found = state(service)
    assert statuses(found, max_error_share=0.1, max_rejected_share=0.2) == ["PASS", "PASS"]
    assert statuses(found, max_error_share=0.09, max_rejected_share=0.19) == ["FAIL", "FAIL"]


def test_a_file_of_the_gate_is_taken_and_what_only_the_gate_can_answer_is_named(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(
        'name = "release"\nmin_clean = 0.7\nmin_robust = 0.4\nrequired_attacks = ["fast"]\nmax_p99_ms = 9\n'
    )
    policy, others = ServicePolicy.load(file)
    assert (policy.min_robust, policy.max_p99_ms, others) == (0.4, 9.0, ["min_clean", "required_attacks"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_p99 = 3", "max_p99_ms"),
        ("min_robust = 40", "0 to 1"),
        ("max_p99_ms = -1", "0 or more"),
        ('max_p99_ms = "fast"', "not a number"),
        ('norm = "linf"', "norm and eps together"),
        ("max_p99_ms = ", "not TOML"),
        ('sha256 = ""', "not a SHA-256"),
        ('sha256 = "xyz"', "not a SHA-256"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text, words, tmp_path):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        ServicePolicy.load(tmp_path / "policy.toml")
