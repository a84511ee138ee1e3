import dataclasses

import pytest
from sample_records import tiny_evaluation

from robustcls.core.errors import InputError
from robustcls.core.policy import Policy, judge
from robustcls.core.records import Accuracy, Attack, Check

BOTH = Policy(min_clean=0.75, min_robust=0.4)


def sample(clean=900, robust=500, checks=(), attacks=None):
    one = tiny_evaluation()
    changes = {"clean": Accuracy.of(clean, 1000), "robust": Accuracy.of(robust, 1000), "checks": list(checks)}
    return dataclasses.replace(one, **changes, **({} if attacks is None else {"attacks": attacks}))


def check(status):
    return Check("zero_gradients", status, 0.5, 0.05, "half have none")


@pytest.mark.parametrize(
    ("evaluation", "policy", "status", "reason"),
    [
        (sample(), BOTH, "PASS", "robust accuracy 50.0% [46.9%, 53.1%] lies at or above the threshold 40.0%"),
        (sample(), Policy(), "NOT JUDGED", "no thresholds"),
        (sample(robust=300), BOTH, "FAIL", "robust accuracy 30.0% [27.2%, 32.9%] lies below"),
        (sample(clean=600), BOTH, "FAIL", "clean accuracy 60.0%"),
        (sample(robust=410), BOTH, "INCONCLUSIVE", "lies around the threshold 40.0%"),
        (sample(robust=390), BOTH, "INCONCLUSIVE", "around"),
        (sample(robust=300, clean=760), BOTH, "FAIL", "around"),
        (sample(checks=[check("fail")]), BOTH, "INCONCLUSIVE", "check zero_gradients failed: half have none"),
        (sample(robust=300, checks=[check("fail")]), BOTH, "FAIL", "zero_gradients failed"),
        (sample(checks=[check("warn")]), BOTH, "WARN", "check zero_gradients warns: half have none"),
        (sample(checks=[check("warn"), check("fail")]), BOTH, "INCONCLUSIVE", "warns"),
        (sample(checks=[check("not_run"), check("pass")]), BOTH, "PASS", "at or above"),
        (sample(checks=[check("fail")]), Policy(), "NOT JUDGED", "no thresholds"),
        (sample(clean=600), Policy(min_robust=0.4), "PASS", "robust"),
        (sample(robust=0), Policy(min_robust=0.0), "PASS", "robust"),
        (
            sample(attacks=[Attack("pgd", {}, 900, 0, 0.9, 0, 0, 0, error="RuntimeError: no")]),
            BOTH,
            "INCONCLUSIVE",
            "attack pgd broke off: RuntimeError: no",
        ),
    ],
)
def test_verdicts(evaluation, policy, status, reason):
    verdict = judge(evaluation, policy)
    assert verdict.status == status
    assert any(reason in line for line in verdict.reasons), verdict.reasons


def test_the_edge_of_an_interval_passes():
    low, high = Accuracy.of(500, 1000).ci95
    assert judge(sample(), Policy(min_robust=low)).status == "PASS"
    assert judge(sample(), Policy(min_robust=low + 1e-9)).status == "INCONCLUSIVE"
    assert judge(sample(), Policy(min_robust=high)).status == "INCONCLUSIVE"
    assert judge(sample(), Policy(min_robust=high + 1e-9)).status == "FAIL"


@pytest.mark.parametrize("value", [-0.1, 1.1, 40, float("nan")])
def test_a_threshold_is_a_share(value):
    with pytest.raises(InputError, match="is not a share"):
        Policy(min_robust=value)
