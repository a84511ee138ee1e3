"""Arrows between the folders run one way, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import robustcls

ROOT = Path(robustcls.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BASE = {"core", "runtime"}
MAY_IMPORT = {  # besides itself; `.` is the package's own __init__.py
    "core": set(),
    "runtime": {"core"},
    "data": BASE,
    "models": BASE,
    "attacks": BASE,
    "attribution": BASE,
    "corruptions": {"core"},
    "objectives": BASE | {"data", "models", "attacks", "attribution"},
    "steps": BASE | {"data", "models", "attacks", "attribution", "objectives"},
    "trackers": BASE,
    "training": BASE | {"data", "models", "attacks", "objectives", "steps", "trackers"},
    "evaluation": BASE | {"attacks", "attribution", "corruptions"},
    "reporting": {"core"},
    ".": {"core", "attacks", "attribution", "evaluation", "models", "reporting"},
}
TYPES_ONLY = {"steps": {"training"}}  # a step is handed the run that it belongs to
TOP = {"cli", "bench"}
NORMS = {"linf", "l2", "l1"}
DEFAULTS = {"training/config.py": 1}  # branches that choose a default, since a radius holds for one norm alone


def home_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else "."


def imports(tree: ast.AST, types_only: bool = False):
    """(module, line, whether under TYPE_CHECKING) of every import of ours, at whatever depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for inner in node.body:
                yield from imports(ast.Module([inner], []), True)
            yield from imports(ast.Module(node.orelse, []), types_only)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, types_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "robustcls":
                yield from ((f"robustcls.{alias.name}", node.lineno, types_only) for alias in node.names)
            else:
                yield node.module, node.lineno, types_only
        else:
            yield from imports(node, types_only)


def arrows_up(home: str, source: str) -> list[str]:
    wrong = []
    for module, line, types_only in imports(ast.parse(source)):
        parts = module.split(".")
        if parts[0] != "robustcls" or len(parts) == 1 or not (ROOT / parts[1]).is_dir():
            continue
        allowed = MAY_IMPORT[home] | {home} | (TYPES_ONLY.get(home, set()) if types_only else set())
        if parts[1] not in allowed:
            wrong.append(f"line {line}: {home} imports {module}")
    return wrong


def test_every_folder_has_its_level():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders <= MAY_IMPORT.keys() | TOP


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_arrow_runs_up(file):
    if home_of(file) not in TOP and file.name != "__main__.py":
        assert arrows_up(home_of(file), file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("home", "source", "count"),
    [
        ("core", "from robustcls.runtime.device import autocast", 1),
        ("core", "def f():\n    import robustcls.attacks", 1),
        ("attacks", "from robustcls import evaluation", 1),
        ("attacks", "from robustcls import __version__", 0),
        ("attacks", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import robustcls.training.run", 1),
        ("steps", "if TYPE_CHECKING:\n    from robustcls.training.run import Run", 0),
        ("steps", "from robustcls.training.run import Run", 1),
        ("reporting", "try:\n    from robustcls.evaluation import evaluate\nexcept ImportError: ...", 1),
        ("evaluation", "from robustcls.training import run\nfrom robustcls.attribution import explain", 1),
        ("training", "from robustcls.cli.main import main", 1),
        (".", "from robustcls.bench import x", 1),
        ("training", "import os, robustcls.runtime.search, robustcls.bench", 1),
    ],
)
def test_the_walk_sees_arrows(home, source, count):
    assert len(arrows_up(home, source)) == count


def norm_branches(source: str) -> list[int]:
    """Lines that compare with a norm's name or match it."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        inside = [inner for side in sides for inner in ast.walk(side)]
        if any(isinstance(inner, ast.Constant) and inner.value in NORMS for inner in inside):
            lines.append(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_threat_model_branches_on_a_norm(file):
    name = file.relative_to(ROOT).as_posix()
    if name != "core/threat.py":
        assert len(norm_branches(file.read_text(encoding="utf-8"))) <= DEFAULTS.get(name, 0)


def test_the_walk_sees_branches():
    seen = "if norm == 'l2': x\ny = 1 if 'linf' != n else 2\nz = n in ('l1', 'l2')\nmatch n:\n    case 'l2': x\n"
    assert norm_branches(seen) == [1, 2, 3, 5]
    assert norm_branches("norm: Literal['linf'] = 'linf'\nprint('l2')\nx = {'norm': 'l2'}") == []


LIGHT = [
    "robustcls",
    "robustcls.reporting",
    *(f"robustcls.core.{file.stem}" for file in sorted((ROOT / "core").glob("*.py"))),
    "robustcls.evaluation",
    "robustcls.evaluation.config",
    "robustcls.evaluation.suites",
    "robustcls.attacks",
    "robustcls.cli.main",
]
HEAVY_CORE = {"classifier", "draws", "gradients", "hyperplane", "logits", "losses"}


def test_light_modules_do_not_import_torch():
    light = [module for module in LIGHT if module.rpartition(".")[2] not in HEAVY_CORE]
    code = f"""
import importlib, sys
for module in {light!r}:
    importlib.import_module(module)
    assert "torch" not in sys.modules, module
from robustcls.core import plugins
assert all(plugins.describe(kind) is not None for kind in plugins.KINDS)
assert "torch" not in sys.modules, "listing plug-ins"
import robustcls
robustcls.ThreatModel.parse("linf:8/255"), robustcls.Evaluation, robustcls.report
assert "torch" not in sys.modules, "robustcls.report"
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_public_names():
    for name in robustcls.__all__:
        assert getattr(robustcls, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'attak'"):
        robustcls.attak  # noqa: B018
