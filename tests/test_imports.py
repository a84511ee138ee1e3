"""Modules that must not import torch stay light; import-linter in pyproject.toml checks the other import rules."""

import subprocess
import sys
from pathlib import Path

import pytest

import robustcls

ROOT = Path(robustcls.__file__).parent

LIGHT = [
    "robustcls",
    "robustcls.reporting",
    *(
        f"robustcls.{folder}.{file.stem}"
        for folder in ("core", "results")
        for file in sorted((ROOT / folder).glob("*.py"))
    ),
    "robustcls.evaluation",
    "robustcls.evaluation.measures",
    *(
        f"robustcls.evaluation.measures.{file.parent.name}.{file.stem}"
        for file in sorted((ROOT / "evaluation" / "measures").glob("*/*.py"))
        if file.stem == "record" or file.stem.startswith("section")
    ),
    "robustcls.evaluation.config",
    "robustcls.evaluation.suites",
    "robustcls.attacks",
    "robustcls.cli.main",
]
HEAVY_CORE = {"classifier", "detector", "draws", "gradients", "logits", "losses", "objective", "subset"}


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
