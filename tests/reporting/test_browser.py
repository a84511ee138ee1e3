"""The report in headless Chromium: offline, quiet, narrow, without JavaScript, accessible."""

import importlib.util
import json
import shutil
import urllib.parse
from pathlib import Path

import pytest

from robustcls.reporting import report
from robustcls.results.policy import Policy
from tests.helpers.bracketed import bounded, smoothed_bracket
from tests.helpers.sample_evaluation import sample_evaluation

pytestmark = pytest.mark.browser

# Both packages contain the script of axe-core. Without either, the accessibility test is skipped.
AXE = {"axe_playwright_python": "axe.min.js", "axe_core_python": "axe.min.js"}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with api.sync_playwright() as play:
        try:
            found = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        except api.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    first = sample_evaluation("adversarial")
    second = sample_evaluation("standard", clean=0.93, robust=0.02, seed=1)
    for evaluation in (first, second):
        evaluation.model.classes[0] = "</script><img src=x onerror=alert(1)>"
    folder, policy = tmp_path_factory.mktemp("report"), Policy(0.7, 0.3)
    return {
        "one": report(first, folder / "one.html", policy=policy),
        "two": report([second, first], folder / "two.html", policy=policy),
        "certified": report([smoothed_bracket(), smoothed_bracket("a.pt"), bounded()], folder / "certified.html"),
    }


@pytest.fixture
def page_file(files) -> Path:
    return files["two"]


@pytest.fixture
def visit(browser):
    """Return a function that opens a file and collects requests and messages on the page object."""
    contexts = []

    def open_page(path, fragment="", **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: (page.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_asks_for_nothing_and_says_nothing(visit, page_file, scheme):
    page = visit(page_file, color_scheme=scheme)
    assert {urllib.parse.urlsplit(url).scheme for url in page.asked} <= {"file", "data", "blob"}
    assert [url for url in page.asked if url.startswith("file:")] == [page_file.as_uri()]
    assert page.said == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 224])
def test_forty_examples_are_laid_out_together(visit, tmp_path, size):
    """A script that alternates between measuring and changing examples would trigger a layout for each of them."""
    evaluation = sample_evaluation(size=size, examples=40, smooth=False, n=1000)
    page = visit(report(evaluation, tmp_path / "forty.html"))
    assert page.locator(".example").count() == 40
    assert (tmp_path / "forty.html").stat().st_size <= 5_000_000
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.reload()
    page.wait_for_load_state("load")
    counts = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < counts["LayoutCount"] < 20
    assert page.evaluate("document.getElementsByTagName('*').length") < 20_000


@pytest.mark.parametrize("width", [320, 768, 1280])
@pytest.mark.parametrize("models", ["one", "two", "certified"])
def test_does_not_scroll_sideways(visit, files, models, width):
    page = visit(files[models], viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """[...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, .contents, .hidden, details:not([open])")
        && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert wide == []


def test_is_whole_without_javascript(visit, page_file):
    page = visit(page_file, java_script_enabled=False)
    for selector in (
        "#verdict .badge",
        "#accuracy > .scroll table",
        "#attacks svg",
        "#gallery .strip img",
        "#curves svg",
        "#corruptions table.heat",
        "#comparison table",
        "#limits dl",
    ):
        assert page.locator(selector).first.is_visible(), selector
    for selector in (".filters", ".downloads", ".theme"):
        assert not page.locator(selector).first.is_visible(), selector


def test_filters_live_in_the_address(visit, page_file):
    page = visit(page_file, "#gallery?outcome=survived")
    shown = page.locator(".example:visible")
    every = page.locator(".example").count()
    assert 0 < shown.count() < every
    assert set(shown.evaluate_all("all => all.map((one) => one.dataset.outcome)")) == {"survived"}
    page.select_option("select[name=outcome]", "broken")
    assert page.evaluate("location.hash") == "#gallery?outcome=broken"
    page.select_option("select[name=outcome]", "")
    assert shown.count() == every
    assert page.said == []


def test_lightbox_keeps_the_focus_and_gives_it_back(visit, page_file):
    page = visit(page_file)
    first = page.locator(".zoom").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    assert dialog.count() == 1
    before = dialog.locator("p").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text() != before
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert first.evaluate("(one) => one === document.activeElement")


def test_tables_sort(visit, page_file):
    page = visit(page_file)
    table = page.locator("#classes table.sortable").nth(1)
    table.locator("th button").nth(1).click()
    counts = [int(text) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    assert counts == sorted(counts)
    table.locator("th button").nth(1).click()
    counts = [int(text) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    assert counts == sorted(counts, reverse=True)


def test_theme_can_be_chosen(visit, page_file):
    page = visit(page_file, color_scheme="dark")
    seen = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(seen)
    page.click(".theme")
    assert page.evaluate(seen) != dark


def test_downloads_come_from_the_page(visit, page_file, tmp_path):
    page = visit(page_file)
    saved = {}
    for selector in ("[data-download=json]", "[data-download=csv]", ".png"):
        with page.expect_download() as found:
            page.locator(selector).first.click()
        saved[selector] = tmp_path / found.value.suggested_filename
        found.value.save_as(saved[selector])
    assert json.loads(saved["[data-download=json]"].read_text())["schema"] == "robustcls/evaluation/1"
    assert len(saved["[data-download=csv]"].read_text().splitlines()) == 401
    assert saved[".png"].read_bytes().startswith(b"\x89PNG")
    assert page.said == []


def test_prints_what_is_folded(visit, page_file):
    page = visit(page_file)
    page.emulate_media(media="print")
    folded = page.locator("details > .scroll").first
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folded.is_visible()
    assert not page.locator(".contents").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("models", "scheme"), [("two", "light"), ("two", "dark"), ("one", "light")])
def test_axe_finds_nothing(visit, files, models, scheme):
    script = axe_script()
    page = visit(files[models], color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900})
    page.evaluate(script + ";0")
    assert _violations(page) == []
    page.select_option("select[name=outcome]", "broken")
    assert _violations(page) == []
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate("document.querySelector('.zoom').click()")
    assert _violations(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_certificates(visit, files, scheme):
    script = axe_script()
    page = visit(files["certified"], color_scheme=scheme, bypass_csp=True, viewport={"width": 1280, "height": 900})
    page.evaluate(script + ";0")
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert _violations(page) == []


def axe_script() -> str:
    """Return the text of axe-core; skip the test if it is not installed."""
    found = [(name, importlib.util.find_spec(name)) for name in AXE]
    folders = [(name, Path(spec.origin).parent) for name, spec in found if spec and spec.origin]
    scripts = [file for name, folder in folders for file in folder.rglob(AXE[name])]
    if not scripts:
        pytest.skip("axe-core is not installed: pip install axe-playwright-python")
    return scripts[0].read_text(encoding="utf-8")


def _violations(page) -> list[str]:
    result = page.evaluate(
        """axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "best-practice"], resultTypes: ["violations"]})"""
    )
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:160]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in result["violations"]
    ]
