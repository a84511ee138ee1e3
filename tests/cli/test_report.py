"""`robustcls report`: the files that it writes."""

import shutil

import pytest

from robustcls.results.records import Evaluation

FAST = (
    "--profile", "quick", "--n", 30, "--attack", "fgsm", "--method", "saliency", "--examples", 3, "--maps-n", 2,
    "--device", "cpu",
)  # fmt: skip


@pytest.fixture
def two(home, tmp_path):
    """Return two checkpoints in separate folders."""
    for name in ("standard", "pgd"):
        (tmp_path / name).mkdir()
        shutil.copy(home / name / "ckpt.pt", tmp_path / name / "ckpt.pt")
    return tmp_path / "standard" / "ckpt.pt", tmp_path / "pgd" / "ckpt.pt"


@pytest.mark.slow
def test_a_report_of_two_models_is_one_page_and_two_evaluations(cli, two, tmp_path):
    result = cli("report", "--model", two[0], "--model", two[1], *FAST, "--out", "both.html", "--title", "Two of them")
    assert result.status == 0, result.err
    assert result.out == "both.html\n"
    page = (tmp_path / "here" / "both.html").read_text(encoding="utf-8")
    for words in ("Two of them", "standard/ckpt.pt", "pgd/ckpt.pt"):
        assert words in page
    for path in two:
        evaluation = Evaluation.load(path.parent / "evaluation.json")
        assert len(evaluation.gallery.examples) == 3
        assert [name.name for name in sorted(path.parent.iterdir())] == ["ckpt.pt", "evaluation.json"]
    assert max(len(line) for line in result.err.splitlines() if "/" not in line) <= 80
    evaluations = [path.parent / "evaluation.json" for path in two]
    again = cli("report", *evaluations, "--out", "again.html", "--title", "Two of them")
    assert again.status == 0, again.err
    rendered = (tmp_path / "here" / "again.html").read_text(encoding="utf-8")
    assert rendered.replace(".0,", ",") == page.replace(
        ".0,", ","
    )  # the page made from the files is the same, except for how floats are written


@pytest.mark.slow
def test_models_of_one_folder_keep_their_evaluations_apart(cli, two, tmp_path):
    for path in two:
        shutil.copy(path, tmp_path / "here" / f"{path.parent.name}.pt")
    result = cli("report", "--model", "standard.pt", "--model", "pgd.pt", *FAST, "--quiet")
    assert (result.status, result.err) == (0, "")
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == ["evaluation-pgd.json", "evaluation-standard.json", "pgd.pt", "report.html", "standard.pt"]
    assert Evaluation.load("evaluation-pgd.json").model.name.endswith("pgd.pt")
    assert Evaluation.load("evaluation-standard.json").model.name.endswith("standard.pt")


def test_a_report_of_an_evaluation_only_renders(cli, home, tmp_path):
    shutil.copy(home / "a.json", tmp_path / "here" / "a.json")
    result = cli("report", "a.json", "--min-robust", 0.4)
    assert (result.status, result.out, result.err) == (0, "report.html\n", "")
    assert "PASS" in (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
