"""The page of an audit in headless Chromium: it can be used with the keyboard alone, and produces a file."""

import csv
import io

import pytest

from robustcls.auditing.decisions import COLUMNS, read_decisions, write_findings
from robustcls.reporting.audit import audit_page, compose_audit
from robustcls.results.accuracy import Accuracy
from robustcls.results.arrays import Array
from robustcls.results.audit import BOUNDARY, UNSURE, Audit, Copy, Duplicates, Finding, Pair
from robustcls.results.subject import Data, Provenance, Threat
from tests.reporting import test_browser

browser, visit = test_browser.browser, test_browser.visit
EVIL = '</script><img src=x onerror=alert(1)>, "dog"'


def sample_audit(count: int = 6) -> Audit:
    import numpy

    draws = numpy.random.default_rng(0)
    findings = [
        Finding(
            i, i % 2, 1 - i % 2, "label error", -0.5 + i / 10, f"{i:016x}", f"train/cat/{i},\"x\".png",
            Array.encode(draws.random((3, 16, 16)), "uint8", 1 / 255),
        )
        for i in range(count)
    ]  # fmt: skip
    return Audit(
        data=Data("folder:photos", "train", 100, "0" * 64),
        classes=["cat", EVIL, "bird"],
        folds=2,
        accuracy=Accuracy.of(80, 100),
        issues=findings,
        thresholds=[0.5, 0.6, None],
        joint=[[1, 2, 0], [3, 4, 0], [0, 0, 0]],
        pairs=[Pair(0, 1, Accuracy.of(5, 50), Accuracy.of(10, 20))],
        boundary=[],
        suggestions=findings,
        duplicates=[Duplicates(False, 0.9, [Copy("train", 1, 0, "train/<b>.png"), Copy("test", 2, 1)])],
        provenance=Provenance("", {}, 0, {}, "", "", "", 1.0),
        arch="vgg16",
        attack="pgd",
        attacked=20,
        threat=Threat("linf", 8 / 255, "8/255"),
        searched=["train", "test"],
        notes=["a note"],
    )  # fmt: skip


@pytest.fixture
def page_file(tmp_path):
    return audit_page(sample_audit(), tmp_path / "audit.html")


def test_what_the_data_says_is_text():
    text = compose_audit(sample_audit())
    assert "<img src=x" not in text
    assert "<b>.png" not in text


def test_a_page_without_findings():
    empty = sample_audit(0)
    empty.duplicates, empty.pairs = [], []
    assert "There is nothing to review." in compose_audit(empty)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_asks_for_nothing_and_says_nothing(visit, page_file, scheme):
    page = visit(page_file, color_scheme=scheme)
    assert [url for url in page.asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.said == []
    assert page.locator(".finding img").count() == 6


@pytest.mark.browser
def test_a_person_decides_with_the_keyboard_alone(visit, page_file, tmp_path):
    page = visit(page_file)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "begin":
            break
    page.keyboard.press("Enter")
    for key in "anrk":  # accept; pass over; remove; keep
        page.keyboard.press(key)
    assert "3 of 6 decided" in page.locator(".steer output").inner_text()
    page.keyboard.press("p")
    page.keyboard.press("u")
    assert "2 of 6 decided" in page.locator(".steer output").inner_text()
    page.keyboard.press("Tab")  # to the radio buttons of this finding
    page.keyboard.press("Space")
    assert "3 of 6 decided" in page.locator(".steer output").inner_text()
    page.locator(".finding").nth(5).locator("select").select_option("bird")
    page.locator(".save").focus()
    with page.expect_download() as found:
        page.keyboard.press("Enter")
    found.value.save_as(tmp_path / "labels.csv")
    assert found.value.suggested_filename == "labels.csv"
    with open(tmp_path / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["decision"] for row in rows] == ["relabel", "", "remove", "keep", "", "relabel"]
    assert [row["new_label"] for row in rows] == [EVIL, "", "", "", "", "bird"]
    assert [row["image"] for row in rows] == [f'train/cat/{i},"x".png' for i in range(6)]
    assert len(read_decisions(tmp_path / "labels.csv")) == 4
    assert page.said == []


@pytest.mark.browser
def test_without_a_guess_nothing_is_accepted(visit, tmp_path):
    """Images near the boundary have no guess, because the models agree with the label. Unsure models may agree with it, too."""
    sample = sample_audit(4)
    sample.suggestions[0].reason = BOUNDARY
    sample.suggestions[1].reason, sample.suggestions[1].guess = UNSURE, sample.suggestions[1].label
    page = visit(audit_page(sample, tmp_path / "audit.html"))
    assert [one.inner_text() for one in page.locator(".finding legend").all()][:2] == [
        f"1. cat, nearest class: {EVIL}", f"2. {EVIL}, predicted as the same"
    ]  # fmt: skip
    page.locator(".begin").click()
    for key in "aaa":
        page.keyboard.press(key)
    last = page.locator(".finding").nth(3)
    first = page.locator(".finding").nth(0)
    first.locator("input[value=relabel]").click()  # without a class
    assert "2 of 4 decided" in page.locator(".steer output").inner_text()
    first.locator("select").select_option("bird")
    assert "3 of 4 decided" in page.locator(".steer output").inner_text()
    assert last.locator("select").input_value() == "cat"
    with page.expect_download() as found:
        page.locator(".save").click()
    found.value.save_as(tmp_path / "labels.csv")
    with open(tmp_path / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["relabel", "keep", "relabel", ""]
    assert [row["new_label"] for row in rows] == ["bird", "", EVIL, ""]
    assert [row["guess"] for row in rows][:2] == ["", EVIL]


@pytest.mark.browser
def test_odd_names_come_back_as_they_were(visit, tmp_path):
    names = ["cat/a\nb.png", "cat/a\r\nb.png", "cat/a\rb.png", "cat/\u2028.png", "=HYPERLINK(1).png", "'=a.png"]
    sample = sample_audit(6)
    sample.classes = [" cat", "=two  words", "bird"]
    for one, name in zip(sample.suggestions, names, strict=True):
        one.file, one.odds = name, 12.3
    page = visit(audit_page(sample, tmp_path / "audit.html"))
    assert "label error? (odds 12:1 against the label)" in page.locator(".finding .note").first.inner_text()
    page.locator(".begin").click()
    for _ in names:
        page.keyboard.press("a")
    with page.expect_download() as found:
        page.locator(".save").click()
    found.value.save_as(tmp_path / "labels.csv")
    made = read_decisions(tmp_path / "labels.csv")
    assert [one.image for one in made] == names
    assert [one.new_label for one in made] == ["=two  words", " cat"] * 3
    assert [one.digest for one in made] == [f"{i:016x}" for i in range(6)]
    write_findings(tmp_path / "suggest.csv", sample.suggestions, sample.classes)
    texts = [(tmp_path / name).read_bytes().decode() for name in ("suggest.csv", "labels.csv")]
    tables = [list(csv.reader(io.StringIO(text, newline=""))) for text in texts]
    assert [row[:6] for row in tables[0]] == [row[:6] for row in tables[1]], "both tables are written in the same way"


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 1280])
def test_does_not_scroll_sideways(visit, page_file, width):
    page = visit(page_file, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.browser
def test_is_readable_without_javascript(visit, page_file):
    page = visit(page_file, java_script_enabled=False)
    assert page.locator(".finding img").first.is_visible()
    assert not page.locator(".steer").is_visible()
    assert not page.locator(".choice").first.is_visible()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, page_file, scheme):
    script = test_browser.axe_script()
    page = visit(page_file, color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900})
    page.locator(".begin").click()
    page.keyboard.press("k")
    page.evaluate(script + ";0")
    assert test_browser._violations(page) == []
