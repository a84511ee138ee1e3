"""The committed reports of real runs agree with their evaluations."""

import re

import pytest

from robustcls.reporting.context import look_up
from robustcls.reporting.missing import PARTS
from robustcls.reporting.scrub import scrub
from robustcls.results.comparison import find_mismatch
from robustcls.results.records import Evaluation
from tests.helpers import ROOT
from tests.helpers.report_page import read

HOME = ROOT / "reports" / "cifar10_vgg16_quarter"
MODELS = ("standard", "pgd")
MEASURED = (  # all measures that existed when the reports were made
    "attacks", "alone", "curves", "other_curves", "classes", "minimum", "calibration", "corruptions", "diagnostics",
    "gallery", "stability", "sanity", "training",
)  # fmt: skip
PAGES = {"standard/report.html": ["standard"], "pgd/report.html": ["pgd"], "comparison.html": list(MODELS)}


def load(model: str) -> Evaluation:
    return scrub(Evaluation.load(HOME / model / "evaluation.json"))


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_that_of_the_evaluation(page):
    evaluations = [load(model) for model in PAGES[page]]
    html = (HOME / page).read_text(encoding="utf-8")
    shown = [element for element in read(html) if element.get("class") == "n" and element.get("data-path")]
    assert len(shown) > 500
    for one in shown:
        value = look_up(evaluations[int(one.get("data-model"))], one.get("data-path"))
        assert one.text == format(value, one.get("data-format")), one


@pytest.mark.parametrize("page", PAGES)
def test_all_sections_are_there(page):
    html = (HOME / page).read_text(encoding="utf-8")
    assert len(re.findall(r"<section id=", html)) == 17


@pytest.mark.parametrize("model", MODELS)
def test_everything_was_measured(model):
    evaluation = load(model)
    assert [part for part in MEASURED if not PARTS[part][1](evaluation)] == []
    assert evaluation.profile == "standard"
    assert "JPEG q75 copy" in evaluation.data.note
    assert not any(attack.error for attack in evaluation.attacks)


@pytest.mark.parametrize("model", MODELS)
def test_the_numbers_agree_with_each_other(model):
    found = load(model)
    assert sum(one.clean == one.label for one in found.samples) == found.clean.correct
    assert sum(one.clean == one.label == one.adversarial for one in found.samples) == found.robust.correct
    for attack in found.attacks:
        assert found.robust.accuracy <= attack.alone.accuracy <= found.clean.accuracy
        assert attack.unique <= found.clean.correct - attack.alone.correct
    for curve in (found.curve, *(one.points for one in found.other_curves)):
        shares = [point.robust.accuracy for point in curve]
        assert shares == sorted(shares, reverse=True)
    assert found.calibration.clean.accuracy == pytest.approx(found.clean.accuracy)
    assert found.calibration.adversarial.accuracy == pytest.approx(found.robust.accuracy)
    for accuracy in (found.clean, found.robust, *(one.accuracy for one in found.corruptions.results)):
        assert accuracy.ci95[0] <= accuracy.accuracy <= accuracy.ci95[1]


def test_the_two_models_were_judged_alike():
    assert find_mismatch([load(model) for model in MODELS]) == ""


def test_they_can_be_kept_in_a_repository():
    assert sum(file.stat().st_size for file in HOME.rglob("*")) < 15_000_000
