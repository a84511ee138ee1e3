"""The documents of experiments/ agree with the committed result files."""

import json
import re

import pytest

from experiments import readme
from tests.helpers import ROOT

EXPERIMENTS = ROOT / "experiments"
MACHINE = re.compile(
    r"^#.*(?:\bon|;) \w[^;\n]*[,;] torch \d", re.MULTILINE
)  # "on MACHINE, torch 2.9" or "; MACHINE; torch 2.9"
RECIPES = [
    path for path in sorted(EXPERIMENTS.rglob("*.toml")) if path.name not in ("policy.toml", "tree.toml", "noise.toml")
]
MEASURED = [path for path in RECIPES if re.search(r"^# +reports/", path.read_text(encoding="utf-8"), re.MULTILINE)]


def test_every_table_is_what_its_command_prints():
    text = "".join(file.read_text(encoding="utf-8") for file in readme.FILES)
    blocks = list(readme.BLOCK.finditer(text))
    assert len(blocks) > 10
    outside = readme.BLOCK.sub("", readme.FILES[1].read_text(encoding="utf-8"))
    assert not re.search(r"^\|", outside, re.MULTILINE), "a table without a command"
    for block in blocks:
        assert block[3].strip() == readme.printed_by(block[2]), block[2]


def test_every_python_command_shown_names_a_script_and_as_a_module_if_it_imports_common():
    files = [path for path in EXPERIMENTS.rglob("*") if path.suffix in (".py", ".toml", ".md", ".sh")]
    files += [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    modules = {ROOT.joinpath(*name.split(".")) for name in re.findall(r"python -m (experiments(?:\.\w+)+)", text)}
    assert len(modules) > 20
    assert [path for path in modules if not (path.with_suffix(".py").exists() or path.is_dir())] == []
    by_path = {ROOT / name for name in re.findall(r"python (experiments/\S+\.py)", text)}
    assert len(by_path) > 5
    assert [path for path in by_path if "experiments.common" in path.read_text(encoding="utf-8")] == []


def evidence(path):
    """Return the text of a TOML file, and the evaluation file or folder that its header names last."""
    text = path.read_text(encoding="utf-8")
    named = ROOT / re.findall(r"^# +(reports/\S+)", text, re.MULTILINE)[-1]
    return text, named


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(EXPERIMENTS).as_posix())
def test_a_header_gives_command_samples_and_machine_or_says_that_nothing_was_measured(path):
    header = "".join(re.findall(r"^#.*\n", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert f"robustcls train --config {path.relative_to(ROOT).as_posix()}" in header
    if (
        path.parent / "table.py"
    ).exists() and path not in MEASURED:  # the table has the results of all recipes and seeds of the folder
        assert f"python -m {'.'.join(path.parent.relative_to(ROOT).parts)}.table" in header
    elif path in MEASURED:
        assert re.search(r"\d test images", header)
        assert MACHINE.search(header)
    else:
        assert "Not measured yet" in header


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.relative_to(EXPERIMENTS).as_posix())
def test_the_figures_of_a_header_are_those_of_its_evaluation(path):
    text, named = evidence(path)
    shown = {
        line.split("clean")[0].strip("# ").strip(): re.findall(r"(\S+) (\d+\.\d)%", line)
        for line in text.splitlines()
        if re.match(r"#.* clean \d", line)
    }
    assert shown
    if "bench" in named.relative_to(ROOT).parts:
        rows = json.loads(named.read_text())["suites"]["autoattack"]["rows"]
        measured = {
            "clean": rows["robustcls fast"]["clean_accuracy"],
            "standard": rows["robustcls standard"]["robust_accuracy"],
            "fast": rows["robustcls fast"]["robust_accuracy"],
            "code": rows["pyautoattack standard"]["robust_accuracy"],  # "AutoAttack's own code"
        }
        (figures,) = shown.values()
        assert dict(figures) == {word: f"{100 * value:.1f}" for word, value in measured.items()}
        return
    for weights, figures in shown.items():
        prefix = {"average": "ema_", "last epoch": "raw_", "": ""}[weights]
        for word, figure in figures:
            kind = {"PGD-20": "pgd20"}.get(word, "fast")
            file = named / f"{prefix}{kind}.json" if prefix else named
            file = file / "evaluation.json" if file.is_dir() else file
            part = "clean" if word == "clean" else "robust"
            assert figure == f"{100 * json.loads(file.read_text())[part]['accuracy']:.1f}", (weights, word)


def test_figures_of_speed_stand_in_printed_blocks_alone():
    """Operations or images per second occur only in blocks that a command prints from its JSON."""
    for document in (ROOT / "README.md", EXPERIMENTS / "README.md"):
        text = readme.BLOCK.sub("", document.read_text(encoding="utf-8"))
        assert not re.findall(r"\d[\d,.]* (?:[TG]FLOP/s|img/s|images a second)", text), document.name
