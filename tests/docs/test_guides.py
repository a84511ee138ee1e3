"""The guides in docs/ run as shown."""

import re
import shutil

import pytest

from tests.helpers.guides import PAGES, ROOT, Reader, blocks, steps, words_of


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Return one reader with one folder for all pages, because later pages use the results of earlier ones."""
    reader = Reader(tmp_path_factory.mktemp("guides"))
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def printed():
    """Return a dict for the stdout of each command."""
    return {}


def run(command, reader, printed):
    """Return what the command prints. The guides' runs/pgd equals the README's runs/demo and is not computed again."""
    before = command.replace("runs/pgd", "runs/demo")
    if before == command or before not in printed:
        done = reader.run_command(command)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed[command] = done.stdout
        return done.stdout
    first, again = reader.folder / "runs" / "demo", reader.folder / "runs" / "pgd"
    if not again.exists():
        shutil.copytree(first, again)
        for file in again.glob("*.json"):
            file.write_text(file.read_text(encoding="utf-8").replace("demo/ckpt.pt", "pgd/ckpt.pt"), encoding="utf-8")
    return printed[before].replace("runs/demo", "runs/pgd")


def follow(page, reader, printed):
    """Do what a page says; each command must print what the page shows."""
    for kind, content in blocks(page):
        if kind == "python":
            done = reader.run_script(content)
            assert done.returncode == 0, done.stderr
        elif kind == "toml" and (name := re.match(r"# (\S+\.toml)\n", content)):
            (reader.folder / name[1]).write_text(content, encoding="utf-8")
        elif kind == "console":
            for command, shown in steps(content):
                assert words_of(run(command, reader, printed)) == words_of(shown), command


@pytest.mark.parametrize(
    "page", [page if page == "README" else pytest.param(page, marks=pytest.mark.slow) for page in PAGES]
)
def test_a_page_runs_as_shown(page, reader, printed):
    demo = reader.folder / "runs" / "demo"
    if page != "README" and not demo.exists() and any("runs/demo" in content for _, content in blocks(page)):
        follow("README", reader, printed)  # `-m slow` leaves it out
    follow(page, reader, printed)


def test_every_page_is_listed():
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README", "glossary"}
    assert written | {"README"} == set(PAGES)
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert all(f"({page}.md)" in index for page in [*written, "glossary"])


def test_links_lead_somewhere():
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8")):
            assert (file.parent / link).exists(), f"{file.name}: {link}"
