"""The guides of docs/ work as shown."""

import re

import pytest

from tests.helpers.guides import PAGES, ROOT, Reader, blocks, steps, words_of


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """One, with one folder, for all pages: a later page takes what an earlier one made."""
    reader = Reader(tmp_path_factory.mktemp("guides"))
    yield reader
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_shown(page, reader):
    for kind, content in blocks(page):
        if kind == "python":
            done = reader.run_script(content)
            assert done.returncode == 0, done.stderr
        elif kind == "toml" and (name := re.match(r"# (\S+\.toml)\n", content)):
            (reader.folder / name[1]).write_text(content, encoding="utf-8")
        elif kind == "console":
            for command, shown in steps(content):
                done = reader.run_command(command)
                assert done.returncode == 0, f"{command}\n{done.stderr}"
                assert words_of(done.stdout) == words_of(shown), command


def test_every_page_is_listed():
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README", "glossary"}
    assert written | {"README"} == set(PAGES)
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(f"({page}.md)" in index for page in [*written, "glossary"])


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name}: {link}"
