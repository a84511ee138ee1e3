"""Gallery images as files beside the page."""

import hashlib
import io
import re
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.reporting import render, report
from tests.helpers.report_page import read
from tests.helpers.sample_evaluation import sample_evaluation


def sources(html: str) -> list[str]:
    return [one.get("src") for one in read(html) if one.tag == "img"]


def test_images_are_lossless_files_named_by_their_content(tmp_path: Path):
    evaluation = sample_evaluation(examples=3, size=224, smooth=False)
    path = report(evaluation, tmp_path / "report.html", assets=tmp_path / "my images")
    html = path.read_text(encoding="utf-8")
    found = sources(html)
    assert len(found) == 3 * 9
    assert all(re.fullmatch(r"my%20images/[0-9a-f]{16}\.png", one) for one in found)
    names = {Path(urllib.parse.unquote(one)).name for one in found}
    assert {one.name for one in (tmp_path / "my images").iterdir()} == names
    for name in names:
        content = (tmp_path / "my images" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(name.removesuffix(".png"))
    first = Image.open(io.BytesIO((tmp_path / urllib.parse.unquote(found[0])).read_bytes()))
    pixels = np.rint(255 * evaluation.gallery.examples[0].clean.decode().transpose(1, 2, 0))
    assert np.array_equal(np.asarray(first), pixels.astype(np.uint8))
    assert "data:image/png" not in html
    assert str(tmp_path) not in html


@pytest.mark.slow
def test_forty_large_examples_leave_a_small_page(tmp_path: Path):
    evaluation = sample_evaluation(examples=40, size=224, smooth=False, n=400)
    path = report(evaluation, tmp_path / "report.html", assets=tmp_path / "images", sections=["gallery", "limits"])
    assert path.stat().st_size < 1_000_000
    assert "lossy" not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_files(tmp_path: Path):
    evaluation = sample_evaluation(examples=3)
    pages = [report(evaluation, tmp_path / side / "a.html", assets=tmp_path / side / "images") for side in "ab"]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    listed = [sorted((one.name, one.read_bytes()) for one in (tmp_path / side / "images").iterdir()) for side in "ab"]
    assert listed[0] == listed[1]
    report(evaluation, pages[0], assets=tmp_path / "a" / "images")
    assert len(list((tmp_path / "a" / "images").iterdir())) == len(listed[0])


def test_without_the_option_the_page_holds_its_images(tmp_path: Path):
    evaluation = sample_evaluation(examples=3)
    path = report(evaluation, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") == render([evaluation])
    assert all(one.startswith("data:image/png;base64,") for one in sources(render([evaluation])))
    assert "img-src data: blob:;" in path.read_text(encoding="utf-8")


def test_withheld_images_are_not_written(tmp_path: Path):
    path = report(sample_evaluation(), tmp_path / "report.html", assets=tmp_path / "images", redact_images=True)
    assert list(tmp_path.iterdir()) == [path]
    assert "file:" not in path.read_text(encoding="utf-8")


def test_an_image_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "images").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder with `assets`"):
        report(sample_evaluation(examples=3), tmp_path / "report.html", assets=tmp_path / "images")
    assert not (tmp_path / "report.html").exists()


def test_nothing_is_left_where_the_page_cannot_be_written(tmp_path: Path, monkeypatch):
    evaluation = sample_evaluation(examples=3)
    kept = report(evaluation, tmp_path / "kept.html", assets=tmp_path / "images", sections=["gallery"])
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    write = Path.write_text

    def fail(self, *arguments, **options):
        if ".part" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    other = sample_evaluation(examples=3, seed=3)
    for folder in ("images", "new"):
        with pytest.raises(InputError, match="No space left"):
            report(other, kept.with_name("new.html"), assets=tmp_path / folder)
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_shows_the_files_from_disk(tmp_path: Path):
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    path = report(sample_evaluation(examples=3), tmp_path / "report.html", assets=tmp_path / "my images")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        except api.Error as error:
            pytest.skip(f"no Chromium starts here: {str(error).splitlines()[0]}")
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.goto(path.as_uri())
        widths = page.evaluate('[...document.querySelectorAll(".strip img")].map((one) => one.naturalWidth)')
        browser.close()
    assert said == []
    assert widths == [32] * 27
