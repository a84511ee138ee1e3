"""Intended use and licence of a model: where they can be stated."""

from pathlib import Path

from robustcls.results.records import Evaluation
from tests.helpers.report_text import shown


def test_intended_use_and_licence_are_stated_where_a_file_is_rendered(cli, home):
    Evaluation.load(home / "a.json").save("e.json")
    before = Path("e.json").read_bytes()
    assert cli("report", "e.json", "--model-card").status == 0
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## Intended use\n\nNot stated.\n" in card
    assert '\nlicense: "unknown"\n' in card
    assert "Research" not in card
    stated = ("--intended-use", "sorting *post*", "--license", "Apache-2.0")
    assert cli("report", "e.json", "--model-card", *stated, "--min-robust", 0.9, "--out", "r.html").status == 0
    card, page = Path("MODEL_CARD.md").read_text(encoding="utf-8"), shown("r.html")
    assert "## Intended use\n\nsorting \\*post\\*\n" in card
    assert '\nlicense: "Apache-2.0"\n' in card
    assert "- Licence: Apache-2.0\n" in card
    assert "sorting *post*" in page
    assert "Apache-2.0" in page
    assert "**FAIL**" in card
    assert Path("e.json").read_bytes() == before


def test_they_are_kept_where_the_model_is_measured(cli, home):
    model = ("--model", home / "pgd" / "ckpt.pt", "--n", 10, "--attack", "fgsm", "--out", "e.json")
    assert cli("attack", *model, "--intended-use", "post", "--license", "MIT").status == 0
    one = Evaluation.load("e.json")
    assert (one.intended_use, one.license) == ("post", "MIT")


def test_a_card_without_thresholds_says_that_nothing_was_judged(cli, home):
    Evaluation.load(home / "a.json").save("e.json")
    assert cli("report", "e.json", "--model-card").status == 0
    assert "## Verdict\n\nNot judged: no thresholds were given.\n" in Path("MODEL_CARD.md").read_text(encoding="utf-8")
    Path("p.toml").write_text('name = "release"\nmin_robust = 0.4\nmin_clean = 0.97\nmax_ece = 0.1\n')
    assert cli("report", "e.json", "--model-card", "--policy", "p.toml").status == 0
    card = Path("MODEL_CARD.md").read_text(encoding="utf-8")
    assert "**FAIL** under the policy release." in card
    for status, asked in (
        ("PASS", "robust accuracy at least 40.0%"), ("FAIL", "clean accuracy at least 97.0%"),
        ("INCONCLUSIVE", "clean calibration error (ECE) at most 10.0%"),
    ):  # fmt: skip
        assert f"| {status} | {asked} |" in card
