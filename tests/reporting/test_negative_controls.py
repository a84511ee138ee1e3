"""Models and attacks with misleading numbers: each fails the check made for it, and the report says so and never passes."""

import pytest
import torch

from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.plan import make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.reporting import report
from robustcls.reporting.sections.diagnostics import EXPECTED
from robustcls.results.policy import Policy
from robustcls.results.policy import judge as verdict
from tests.helpers.eval_models import Masked, train_digits
from tests.helpers.report_page import read

pytestmark = pytest.mark.whole_checks

STRONG = ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=2)"]
ALL = Policy(min_clean=0.0, min_robust=0.0)
CONTROLS = {  # the model's disguise, the attacks, the check that must name it
    "softmax output": ({"after": lambda logits: logits.softmax(1)}, ["pgd"], "softmax_output"),
    "random": ({"before": lambda x: x + 0.05 * torch.randn_like(x)}, ["pgd"], "random_output"),
    "quantised input": ({"before": lambda x: x.mul(8).round() / 8}, ["pgd"], "zero_gradients"),
    "broken attack": ({}, ["tests.helpers.eval_models:idle"], "attack_self_test"),
    "attack downhill": ({}, [*STRONG, "tests.helpers.eval_models:downhill"], "attack_self_test"),
}


@pytest.fixture(scope="module")
def net():
    return train_digits()


def evaluate(model, attacks):
    x, y = digits("test", size=8).batch()
    threat = ThreatModel("linf", 0.1)
    subject = make_subject(model, x[:60], y[:60], threat)
    return evaluate_subject(subject, make_plan(subject, attacks, checks="all", precision="fp32"))


def badges(evaluation, path):
    """Return the status word of each check, in the order of the page."""
    report([evaluation], path)
    rows = [element for element in read(path.read_text(encoding="utf-8")) if element.tag == "tr"]
    found = {}
    for row in rows:
        if len(row.children) < 3 or "badge" not in str([child.attributes for child in row.children[0].children]):
            continue
        code = [child.text for child in row.children[1].children if child.tag == "code"]
        badge = row.children[0].children[0]
        if code and code[0] in EXPECTED:
            found[code[0]] = badge.get("class").removeprefix("badge is-")
    return found


@pytest.mark.parametrize("name", CONTROLS)
def test_what_misleads_is_named_and_never_passed(name, net, tmp_path):
    disguise, attacks, check = CONTROLS[name]
    evaluation = evaluate(Masked(net, **disguise), attacks)
    assert {found.id: found.status for found in evaluation.checks}[check] == "fail"
    judged = verdict(evaluation, ALL)
    assert judged.status != "PASS"
    assert any(check in reason for reason in judged.reasons)
    shown = badges(evaluation, tmp_path / "report.html")
    assert shown[check] == "fail"
    order = [("fail", "warn", "pass", "not-run").index(status) for status in shown.values()]
    assert order == sorted(order), "failures first"


def test_an_honest_model_passes(net, tmp_path):
    evaluation = evaluate(net, STRONG)
    assert verdict(evaluation, ALL).status == "PASS"
    shown = badges(evaluation, tmp_path / "report.html")
    assert shown.keys() == EXPECTED.keys()
    assert {check: status for check, status in shown.items() if status != "pass"} == {"transfer": "not-run"}


def test_what_was_left_out_is_explained(net, tmp_path):
    evaluation = evaluate(net, ["fgsm"])
    evaluation.checks = [check for check in evaluation.checks if check.id == "device"]
    evaluation.not_run["diagnostics"] = "left out by --checks passive"
    assert badges(evaluation, tmp_path / "report.html") == {
        check: "pass" if check == "device" else "not-run" for check in EXPECTED
    }
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("left out by --checks passive") >= len(EXPECTED) - 1
    assert EXPECTED["large_eps"] in page
