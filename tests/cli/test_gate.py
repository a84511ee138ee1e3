"""`robustcls gate`: the verdict as exit status, text and JUnit file."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from robustcls.cli.gate import junit_xml
from robustcls.reporting import render
from robustcls.results.policy import Criterion, Policy, Verdict
from robustcls.results.records import Check, Evaluation
from tests.helpers.certificates import smoothed_evaluation
from tests.helpers.judged_by_hand import make_evaluation


def test_a_suite_of_another_version_is_named_in_one_line(cli, home, tmp_path):
    for suites, said in (
        ({}, ["note: the suite fast of this evaluation is version 1, today's is 2"]),
        ({"fast": 2}, []),
    ):
        evaluation = Evaluation.load(home / "a.json")
        evaluation.suites, evaluation.robust.kind = suites, "upper bound: fast"
        evaluation.save(tmp_path / "one.json")
        result = cli("gate", tmp_path / "one.json", "--min-robust", 0.40)
        assert result.status == 0
        assert [line for line in result.out.splitlines() if "version" in line] == said


def test_what_limited_the_attacks_passes_no_policy_that_does_not_state_it(cli, home, tmp_path):
    evaluation = Evaluation.load(home / "a.json")
    evaluation.threat.eight_bit = True
    evaluation.save(tmp_path / "one.json")
    found = cli("gate", tmp_path / "one.json", "--min-robust", 0.40)
    said = " ".join(found.out.split())
    assert (found.status, found.out.splitlines()[0]) == (3, "INCONCLUSIVE")
    assert (
        "attacked under linf 8/255, examples in 8 bits, while the policy is about attackers that are limited only"
        in said
    )
    assert "state eight_bit = true in the policy, or evaluate without" in said
    (tmp_path / "here" / "policy.toml").write_text("min_robust = 0.4\neight_bit = true\n")
    assert cli("gate", tmp_path / "one.json", "--policy", "policy.toml").status == 0
    other = cli("gate", home / "a.json", "--policy", "policy.toml")
    assert other.status == 3
    assert "while the policy is about any norm and radius, examples in 8 bits" in " ".join(other.out.split())
    assert cli("gate", home / "a.json", "--min-robust", 0.40).status == 0
    assert cli("gate", tmp_path / "one.json", "--min-clean", 0.40).status == 0, (
        "limits of the attacks do not affect clean accuracy"
    )


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
    cases = {case.get("name").partition(":")[0]: case for case in suite}
    assert suite.tag == "testsuite"
    assert int(suite.get("tests")) == len(suite) == 1 + len(thresholds) // 2
    assert {case.get("classname") for case in suite} == {"a.json"}
    assert list(cases.pop("diagnostics")) == []
    failures = [failure for case in cases.values() for failure in case]
    assert int(suite.get("failures")) == len(failures) == int(status != 0)
    for failure in failures:
        assert (failure.tag, failure.get("type")) == ("failure", word)
        assert "accuracy" in failure.get("message")


POLICY = """
min-clean = 0.80
min_robust = 0.40
max_ece = 0.05
min_n = 100
norm = "linf"
eps = "8/255"
name = "release"
"""


def test_a_policy_file_gives_gate_and_report_the_same_verdict(cli, home, tmp_path):
    (tmp_path / "here" / "policy.toml").write_text(POLICY)
    result = cli("gate", home / "a.json", "--policy", "policy.toml", "--junit", "gate.xml")
    assert (result.status, result.err) == (3, "")
    assert result.out.splitlines()[0] == "INCONCLUSIVE"
    assert "clean calibration error (ECE) was not measured" in result.out
    suite = ElementTree.parse("gate.xml").getroot()
    failed = {
        case.get("name").partition(":")[0]: [one.get("type") for one in case.findall("failure")] for case in suite
    }
    assert failed == {
        "threat": [], "min_n": [], "min_clean": [], "min_robust": [], "max_ece": ["INCONCLUSIVE"], "diagnostics": [],
    }  # fmt: skip
    html = render([Evaluation.load(home / "a.json")], policy=Policy.load("policy.toml"), sections=["verdict"])
    text = html.partition('<section id="verdict"')[2].partition("</section>")[0]
    assert 'class="card verdict is-inconclusive"' in text
    assert "clean calibration error (ECE) was not measured" in text
    assert "clean calibration error (ECE) at most" in text
    assert "<dd>release</dd>" in text
    assert text.count("<li>") == len(suite)


def test_certified_accuracy_is_held_to_a_threshold(cli, tmp_path):
    """The threshold is --min-certified or the policy's min_certified; gate and report agree."""
    one = smoothed_evaluation()
    one.save(tmp_path / "here" / "e.json")
    for asked, status in ((0.6, 0), (0.8, 3), (0.95, 1)):
        found = cli("gate", "e.json", "--min-certified", asked)
        assert found.status == status, found.out
        assert "within l2 0.25" in " ".join(found.out.split())
    smoothed_evaluation(attacked=False).save("alone.json")
    alone = cli("gate", "alone.json", "--min-certified", 0.6)
    assert (alone.status, "the first radius of the file" in " ".join(alone.out.split())) == (0, True)
    assert "--min-certified" in cli("gate", "alone.json").err
    Path("p.toml").write_text('min_certified = 0.3\nnorm = "l2"\neps = 0.7\n')
    found = cli("gate", "e.json", "--policy", "p.toml", "--junit", "gate.xml")
    assert (found.status, found.out.splitlines()[0]) == (3, "INCONCLUSIVE")
    assert "can say nothing beyond 0.6158" in " ".join(found.out.split())
    assert 'type="INCONCLUSIVE"' in Path("gate.xml").read_text()
    html = render([one], policy=Policy.load("p.toml"), sections=["verdict"])
    assert 'class="card verdict is-inconclusive"' in html
    assert "can say nothing beyond 0.6158" in html
    assert cli("report", "e.json", "--policy", "p.toml", "--min-certified", 0.3, "--out", "r.html").status == 0
    assert "certified accuracy" in Path("r.html").read_text(encoding="utf-8")
    wrong = cli("gate", "e.json", "--min-certified", 30)
    assert (wrong.status, "did you mean 0.3?" in wrong.err) == (2, True)


def test_a_flag_wins_over_the_policy_file(cli, home, tmp_path):
    (tmp_path / "here" / "policy.toml").write_text("min_robust = 0.9")
    assert cli("gate", home / "a.json", "--policy", "policy.toml").status == 1
    assert cli("gate", home / "a.json", "--policy", "policy.toml", "--min-robust", 0.4).status == 0
    assert cli("gate", home / "a.json", "--policy", "policy.toml", "--min-clean", 0.8).status == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_robus = 0.4", "policy.toml: unknown option 'min_robus': did you mean 'min_robust'?"),
        ("min_n = 100", "policy.toml sets no threshold: give one, such as min_robust = 0.40"),
        ("min_robust = 40", "is not a share"),
        ('min_robust = 0.4\nmask = "corner.png"', "mask 'corner.png' is no SHA-256: give the first 8 characters"),
        ("min_robust = 0.4\neight_bit = 1", "eight_bit"),
        (None, "cannot read policy.toml"),
    ],
)
def test_a_wrong_policy_file_is_one_line_and_status_2(text, words, cli, home, tmp_path):
    if text is not None:
        (tmp_path / "here" / "policy.toml").write_text(text)
    result = cli("gate", home / "a.json", "--policy", "policy.toml", "--junit", "gate.xml")
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert words in result.err
    assert not (tmp_path / "here" / "gate.xml").exists()


def test_junit_holds_what_xml_cannot_write(tmp_path):
    criterion = Criterion("diagnostics", "nothing", "INCONCLUSIVE", 'a "quote" & <tag>\x00\x1b[31m\ud800')
    (case,) = ElementTree.fromstring(junit_xml("a<b>.json", Verdict("INCONCLUSIVE", [], [criterion])).encode())
    assert case.get("classname") == "a<b>.json"
    assert case[0].get("message") == 'a "quote" & <tag>  [31m '


@pytest.mark.parametrize(("mark", "status", "word"), [("fail", 3, "INCONCLUSIVE"), ("warn", 0, "WARN")])
def test_a_failed_check_is_no_pass_and_a_warning_is_one(mark, status, word, cli, tmp_path):
    evaluation = make_evaluation(90, 50)
    evaluation.checks = [Check("softmax_output", mark, 1.0, 0.5, 'outputs <look> like "probabilities" & more')]
    evaluation.save(tmp_path / "here" / "e.json")
    result = cli("gate", "e.json", "--min-robust", 0.2, "--junit", "gate.xml")
    assert (result.status, result.out.splitlines()[0]) == (status, word)
    failures = ElementTree.parse("gate.xml").getroot().findall(".//failure")
    assert ['outputs <look> like "probabilities" & more' in f.get("message") for f in failures] == [True] * (status > 0)


def test_without_any_check_a_pass_is_a_warning(cli, tmp_path):
    evaluation = make_evaluation(90, 50)
    evaluation.checks = []
    evaluation.save(tmp_path / "here" / "e.json")
    result = cli("gate", "e.json", "--min-robust", 0.2, "--junit", "gate.xml")
    assert (result.status, result.out.splitlines()[0]) == (0, "WARN")
    assert result.out.splitlines()[-1] == "  no self-check was run"
    suite = ElementTree.parse("gate.xml").getroot()
    assert (suite.get("skipped"), suite.get("failures")) == ("1", "0")
    assert [one.get("message") for one in suite.findall(".//skipped")] == ["no self-check was run"]


def test_gate_marks_each_threshold(cli, home):
    Path("p.toml").write_text("min_robust = 0.4\nmin_clean = 0.97\nmax_drop = 0.4\nmin_corruption = 0.5\n")
    result = cli("gate", home / "a.json", "--policy", "p.toml")
    assert result.status == 1
    assert result.out.splitlines() == [
        "FAIL",
        "  ✕ failed  clean accuracy at least 97.0%: 90.0% [82.6%, 94.5%]",
        "  ✓ met     robust accuracy at least 40.0%: 50.0% [40.4%, 59.6%]",
        "  ? open    drop from clean to robust accuracy at most 40.0%: 40.0% [30.9%,",
        "            49.8%]",
        "  ? open    mean accuracy under common corruptions was not measured",
    ]
