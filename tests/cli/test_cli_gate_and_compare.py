"""`robustcls gate` and `robustcls compare`."""

from xml.etree import ElementTree

import pytest
from judged_by_hand import make_evaluation

from robustcls.core.records import Accuracy, Check


@pytest.mark.parametrize(
    ("thresholds", "status", "word"),
    [
        (("--min-robust", 0.40), 0, "PASS"),  # 50 of 100: the interval is [40.4%, 59.6%]
        (("--min-robust", 0.40, "--min-clean", 0.80), 0, "PASS"),
        (("--min-robust", 0.60), 1, "FAIL"),
        (("--min-robust", 0.40, "--min-clean", 0.97), 1, "FAIL"),
        (("--min-robust", 0.41), 3, "INCONCLUSIVE"),
        (("--min-robust", 0.59), 3, "INCONCLUSIVE"),
        (("--min-clean", 0.90), 3, "INCONCLUSIVE"),
    ],
)
def test_the_verdict_is_the_exit_status_and_the_junit_file(thresholds, status, word, cli, home):
    result = cli("gate", home / "a.json", *thresholds, "--junit", "new/gate.xml")
    assert (result.status, result.err) == (status, "")
    assert result.out.splitlines()[0] == word
    assert len(result.out.splitlines()) == 1 + len(thresholds) // 2
    suite = ElementTree.parse("new/gate.xml").getroot()
    (case,) = suite
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "1", str(int(status != 0)))
    assert (case.tag, case.get("name")) == ("testcase", "a.json")
    if status:
        assert case[0].get("type") == word
        assert "accuracy" in case[0].get("message")
    else:
        assert len(case) == 0


@pytest.mark.parametrize(("mark", "status", "word"), [("fail", 3, "INCONCLUSIVE"), ("warn", 0, "WARN")])
def test_a_failed_check_is_no_pass_and_a_warning_is_one(mark, status, word, cli, tmp_path):
    evaluation = make_evaluation(90, 50)
    evaluation.checks = [Check("softmax_output", mark, 1.0, 0.5, 'outputs <look> like "probabilities" & more')]
    evaluation.save(tmp_path / "here" / "e.json")
    result = cli("gate", "e.json", "--min-robust", 0.2, "--junit", "gate.xml")
    assert (result.status, result.out.splitlines()[0]) == (status, word)
    failures = ElementTree.parse("gate.xml").getroot().findall(".//failure")
    assert ['outputs <look> like "probabilities" & more' in f.get("message") for f in failures] == [True] * (status > 0)


def test_compare_shows_both_and_the_paired_difference(cli, home):
    result = cli("compare", home / "a.json", home / "b.json", home / "a.json")
    assert (result.status, result.err) == (0, "")
    text = " ".join(result.out.split())
    assert "A run/ckpt.pt 90.0% [82.6%, 94.5%] 50.0% [40.4%, 59.6%]" in text
    assert "B pgd/ckpt.pt 85.0%" in text
    assert "B - A clean -5.0%" in text
    assert "B - A robust +10.0%" in text
    assert "C - A robust +0.0%" in text
    assert "0.002" in text  # the exact McNemar p for 10 against 0
    assert "digits, split test, n = 100" in text
    assert "linf 8/255, upper bound: pgd" in text


def test_the_widest_comparison_fits(cli, tmp_path):
    names = []
    for i, name in enumerate(["mylab.networks.residual:wide_resnet_34_10_with_extra_data", "x/ckpt.pt"]):
        evaluation = make_evaluation(10000, 10000 * i, n=10000, name=name)
        evaluation.clean = Accuracy.of(10000, 10000)
        evaluation.robust.kind = "upper bound: " + ", ".join(f"apgd_t(steps={i}00, targets=9)" for i in range(1, 6))
        evaluation.data.name = "mylab.datasets.collections:retina_photographs_of_2024(size=64)"
        names.append(tmp_path / "here" / f"{i}.json")
        evaluation.save(names[-1])
    result = cli("compare", *names)
    assert result.status == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    assert "+100.0%" in result.out
