"""One page for all evaluations of a folder."""

import re
import shutil
import urllib.parse
from pathlib import Path

import pytest

from robustcls.core.errors import InputError
from robustcls.reporting import report
from robustcls.reporting.context import look_up
from robustcls.reporting.index import index, render_index
from robustcls.results.policy import Policy
from robustcls.results.records import Evaluation
from tests.helpers.report_page import read, shown_text
from tests.helpers.sample_evaluation import sample_evaluation

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two evaluations, one with a report, a damaged one, one of a later version, and other files."""
    home = tmp_path / "reports"
    sample_evaluation("/home/alice/runs/a/ckpt.pt", examples=0).save(home / "a" / "evaluation.json")
    sample_evaluation(HOSTILE, examples=0, robust=0.02).save(home / "b: <i>" / "evaluation.json")
    (home / "b: <i>" / "report.html").write_text("")
    whole = (home / "a" / "evaluation.json").read_text()
    (home / "damaged.json").write_text(whole[: len(whole) // 2])
    (home / "later.json").write_text('{"schema": "robustcls/evaluation/9"}')
    (home / "other.json").write_text('{"schema": "robustcls/explanation/1"}')
    (home / "list.json").write_bytes(b"\xff[]")
    (home / ".hidden.json").write_text(whole)
    return home


def test_every_number_is_that_of_its_file(folder: Path):
    elements = read(render_index(folder))
    shown = [one for one in elements if one.get("class") == "n"]
    assert {one.get("data-file") for one in shown} == {"a/evaluation.json", "b: <i>/evaluation.json"}
    assert len(shown) == 2 * 7
    for one in shown:
        value = look_up(Evaluation.load(folder / one.get("data-file")), one.get("data-path"))
        assert one.text == format(value, one.get("data-format"))


def test_damaged_files_are_listed_and_others_counted(folder: Path):
    text = " ".join(shown_text(render_index(folder)).split())
    assert "4 evaluations in this folder and below; 2 other JSON files were skipped" in text
    assert "damaged.json: damaged.json is not JSON" in text
    assert "later.json: later.json has schema 'robustcls/evaluation/9'" in text
    assert "hidden" not in text
    assert "alice" not in text


def test_a_hostile_name_stays_inert(folder: Path):
    html = render_index(folder)
    assert "<img" not in html
    assert HOSTILE in shown_text(html)
    assert [one.tag for one in read(html) if one.tag in ("img", "i")] == []


def test_links_are_relative_and_lead_to_files(folder: Path):
    path = index(folder)
    assert path == folder / "index.html"
    links = [one.get("href") for one in read(path.read_text(encoding="utf-8")) if one.tag == "a"]
    files = [one for one in links if not one.startswith("#")]
    assert all(one.startswith("./") for one in files)
    assert [urllib.parse.unquote(one) for one in files] == [
        "./a/evaluation.json", "./b: <i>/report.html", "./b: <i>/evaluation.json",
    ]  # fmt: skip
    assert all((folder / urllib.parse.unquote(one)).is_file() for one in files)
    assert str(folder) not in path.read_text(encoding="utf-8")


def test_the_same_folder_gives_the_same_bytes_and_no_index_of_itself(folder: Path, tmp_path: Path):
    sample_evaluation("c", examples=0).save(folder / "evaluation.json")
    first = index(folder).read_bytes()
    assert index(folder).read_bytes() == first
    assert b"index.html" not in first
    shutil.copytree(folder, tmp_path / "copy")
    assert index(tmp_path / "copy").read_bytes() == first
    assert not [one for one in folder.iterdir() if one.name.endswith(".part")]


def test_a_policy_adds_the_verdict(folder: Path):
    assert "badge" not in render_index(folder).partition("<main")[2]
    html = render_index(folder, policy=Policy(min_robust=0.3, name="release"))
    assert re.findall(r'class="badge is-([\w-]+)"', html) == ["inconclusive", "fail"]  # an attack failed in both
    assert "Verdicts apply the policy release" in shown_text(html)


def test_a_report_of_the_same_name_is_the_one_that_is_linked(tmp_path: Path):
    sample_evaluation(examples=0).save(tmp_path / "pgd.json")
    for name in ("pgd.html", "standard.html", "index.html"):
        (tmp_path / name).write_text("")
    assert re.findall(r'href="\./([^"]+)"', render_index(tmp_path)) == ["pgd.html", "pgd.json"]
    (tmp_path / "pgd.html").unlink()
    assert re.findall(r'href="\./([^"]+)"', render_index(tmp_path)) == ["standard.html", "pgd.json"]


def test_the_page_is_complete_and_allows_only_its_script(tmp_path: Path):
    html = render_index(tmp_path)
    assert "No evaluation was found." in shown_text(html)
    policy = next(e.get("content") for e in read(html) if e.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_no_folder_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match="no folder .*none: give a folder that contains evaluations with `index`"):
        index(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_it_fits_a_narrow_screen_and_sorts(folder: Path):
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    path = index(folder)
    with api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        except api.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        page, said = browser.new_page(viewport={"width": 320, "height": 700}), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        page.locator("th button").filter(has_text="Robust").click()
        names = page.eval_on_selector_all("tbody tr", "rows => rows.map((row) => row.cells[0].textContent)")
        browser.close()
    assert said == []
    assert width <= 320
    assert names == [HOSTILE, "ckpt.pt"]


def test_pages_of_several_evaluations_are_linked(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sample_evaluation(name, examples=0).save(tmp_path / name / "evaluation.json")
    report([sample_evaluation(name, examples=0) for name in "ab"], tmp_path / "comparison.html", sections=["verdict"])
    (tmp_path / "foreign.html").write_text("<p>mine</p>", encoding="utf-8")
    page = render_index(tmp_path)
    assert re.search(r'href="(\./)?comparison.html"', page)
    assert "foreign.html" not in page
