"""A model with one output on the command line: attacked, compared, judged, explained and reported like two logits."""

from pathlib import Path

import pytest

from robustcls.results.records import Evaluation

HERE = "tests.helpers.one_logit"
SMALL = ("--data", f"{HERE}:pairs", "--n", 20, "--eps", 0.1, "--device", "cpu", "--attack", "pgd(steps=3)")


@pytest.mark.parametrize("form", ["logit", "probability"])
def test_the_evaluation_is_that_of_the_twin_and_can_be_paired_with_it(cli, form):
    for name in (form, "two"):
        found = cli("attack", "--model", f"{HERE}:{name}", *SMALL, "--out", f"{name}.json")
        assert found.status == 0, found.err
        assert ("class 1 of two" in " ".join(found.err.split())) == (name != "two")
    one, two = (Evaluation.load(f"{name}.json") for name in (form, "two"))
    given = [[(sample.clean, sample.adversarial) for sample in each.samples] for each in (one, two)]
    assert given[0] == given[1]
    assert one.robust == two.robust
    assert 0 < one.robust.correct < one.clean.correct
    assert cli("compare", f"{form}.json", "two.json").status == 0
    assert cli("gate", f"{form}.json", "--min-robust", 0.01, "--min-clean", 0.5).status in (0, 3)


def test_it_is_explained_and_reported(cli):
    asked = ("--model", f"{HERE}:logit", *SMALL, "--method", "saliency", "--quiet")
    explained = cli("explain", *asked, "--pictures", 1, "--quality-n", 2, "--out", "maps")
    assert explained.status == 0, explained.err
    assert list(Path("maps").glob("*.png"))
    parts = ("--examples", 2, "--maps-n", 2, "--curves-n", 0, "--minimum-n", 2, "--corruptions-n", 0)
    reported = cli("report", *asked, *parts, "--out", "report.html")
    assert reported.status == 0, reported.err
    page = Path("report.html").read_text(encoding="utf-8")
    assert "class 1 of two" in page
    assert "Sensitivity" in page
