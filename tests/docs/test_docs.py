"""The commands and examples in the documentation are valid."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

import robustcls
from robustcls.cli.main import SUMMARIES
from robustcls.core import plugins
from robustcls.models.checkpoint import build
from robustcls.models.zoo import is_zoo
from robustcls.results.policy import Policy
from tests.helpers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def example(file: str) -> str:
    """Return the Python block that follows the mention of `file` in docs/plugins.md."""
    found = re.search(rf"`{re.escape(file)}`.*?```python\n(.*?)```", PLUGINS, re.DOTALL)
    assert found, f"docs/plugins.md shows no {file}"
    return found.group(1)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes an example of docs/plugins.md as a module and returns the name of the module."""

    def write(file: str) -> str:
        name = f"example_{Path(file).stem}"
        (tmp_path / f"{name}.py").write_text(example(file), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return name

    return write


def images(n=16, size=8):
    return torch.rand(n, 1, size, size), torch.arange(n) % 2


def linear(size=8):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size * size, 2))


def test_attack_example_breaks_a_linear_model_inside_the_ball(written):
    x, _ = images()
    model = linear()
    y = model(x).argmax(1)
    threat = robustcls.ThreatModel("linf", 0.3)
    spec = f"{written('robustcls/attacks/momentum.py')}:momentum(steps=5)"
    x_adv = robustcls.attack(model, x, y, threat, spec)
    assert (x_adv - x).abs().max() <= 0.3 + 1e-6
    assert (model(x_adv).argmax(1) != y).float().mean() > 0.5
    result = robustcls.evaluate(model, x, y, threat, attacks=[spec])
    assert result.robust.accuracy < 0.5


def test_attack_example_is_found_by_its_file_name(tmp_path, monkeypatch):
    """In a copy of the package, the file is enough to register the attack."""
    package = tmp_path / "robustcls"
    subprocess.run(["cp", "-r", str(ROOT / "robustcls"), str(package)], check=True)
    (package / "attacks" / "momentum.py").write_text(example("robustcls/attacks/momentum.py"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "robustcls", "list", "attack"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "momentum(steps=10, decay=1.0)" in done.stdout, done.stderr


def test_objective_example_gives_a_loss_between_its_parts(written):
    x, y = images()
    model = linear()
    objective = plugins.load("objective", f"{written('robustcls/objectives/half.py')}:half(share=0.0)")
    loss = objective(model, x, y, lambda model, x, y: x + 1)
    assert torch.allclose(loss.total, torch.nn.functional.cross_entropy(model(x), y))


def test_data_example_can_be_trained_on(written):
    from robustcls.data.splits import load_training_data

    train, val = load_training_data(f"{written('robustcls/data/sets/stripes.py')}:stripes")
    assert len(train) + len(val) == 200
    assert train.classes == ("vertical", "horizontal")


def test_attribution_example_agrees_with_its_formula(written):
    x, y = images()
    model = linear()
    maps = robustcls.explain(model, x, y, f"{written('robustcls/attribution/gradient_square.py')}:gradient_square")
    weight = model[1].weight.detach().view(2, 1, 8, 8)
    assert torch.allclose(maps, weight[y].square(), atol=1e-6)


def test_section_example_stands_in_the_report(written, tmp_path):
    x, y = images()
    result = robustcls.evaluate(linear(), x, y, robustcls.ThreatModel("linf", 0.1), attacks=["fgsm"])
    spec = f"{written('robustcls/reporting/sections/speed.py')}:speed"
    robustcls.report(result, tmp_path / "report.html", sections=["verdict", spec])
    assert 'data-path="provenance.seconds"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_policy_shown_loads(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(
        re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.DOTALL).group(1),
        encoding="utf-8",
    )
    policy = Policy.load(file)
    assert (policy.name, policy.min_robust, policy.required_attacks) == ("release", 0.4, ("fast",))


def commands() -> list[str]:
    texts = [README, *(file.read_text(encoding="utf-8") for file in sorted((ROOT / "docs").glob("*.md")))]
    lines = [
        line.split("  #")[0].strip().removeprefix("$ ")
        for text in texts
        for line in text.splitlines()
        if re.match(r"( {4}|\$ )?robustcls ", line)
    ]
    for name in SUMMARIES:
        help_text = importlib.import_module(f"robustcls.cli.{name}").command.help or ""
        joined = help_text.replace("\\\n", " ")
        lines += [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip().startswith("robustcls ")]
    return lines


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_parses(line):
    """All options exist and their values have the right type; all plug-ins exist and have these options."""
    _, name, *arguments = shlex.split(line)
    command = importlib.import_module(f"robustcls.cli.{name}").command
    with command.make_context(name, arguments, resilient_parsing=False) as context:
        assert isinstance(context, click.Context)
        for option, kind in (
            ("attack", "attack"),
            ("adv", "attack"),
            ("arch", "model"),
            ("method", "attribution"),
            ("step", "step"),
            ("objective", "objective"),
        ):
            if (name, option) == ("certify", "method"):
                continue  # not a plug-in, but one of two words
            given = context.params.get(option)
            for spec in [given] if isinstance(given, str) else given or ():
                if kind == "model" and is_zoo(spec):
                    build(spec, classes=list("abcde"), input_size=(3, 64, 64))
                elif spec != "none":
                    plugins.resolved(kind, spec)


def test_make_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^ +make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_demo_says_before_each_command_how_long_it_takes():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE).group(1).splitlines()
    commands = [number for number, line in enumerate(recipe) if "/robustcls " in line]
    assert len(commands) >= 3
    for number in commands:
        assert re.search(r"@echo .*\d+ s\b", recipe[number - 1]), recipe[number]
    assert re.search(r"@echo .*\d+ minutes", recipe[1])
