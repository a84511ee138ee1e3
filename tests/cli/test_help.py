"""Help, listing and start-up: the examples are valid, and nothing heavy is imported before a command needs it."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise

import click
import pytest

from robustcls.cli.main import SUMMARIES
from robustcls.cli.main import cli as group
from robustcls.core import plugins
from robustcls.models.checkpoint import build
from robustcls.models.zoo import is_zoo

COMMANDS = list(SUMMARIES)
KINDS = {
    "--attack": "attack",
    "--adv": "attack",
    "--arch": "model",
    "--method": "attribution",
    "--objective": "objective",
    "--suite": "suite",
}


ELSEWHERE = {
    ("--adv", "none"),
    ("bench", "--suite"),
    ("certify", "--method"),
}  # values of the option itself, not plug-ins


def examples(help_text):
    """Return the command lines in a help text, without `robustcls`."""
    joined = help_text.replace("\\\n", " ")
    lines = [line.strip() for line in joined.split("Options:")[0].splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("robustcls ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_whose_options_exist(name, cli):
    result = cli(name, "--help")
    assert (result.status, result.err) == (0, "")
    found = examples(result.out)
    assert found
    command = group.get_command(None, name)
    for line in found:
        assert line[0] == name
        command.make_context(name, line[1:])  # raises an error if an option does not exist
        for option, value in pairwise(line):
            if option == "--arch" and is_zoo(value):
                build(value, classes=list("abcde"), input_size=(3, 64, 64))
            elif option in KINDS and not {(option, value), (name, option)} & ELSEWHERE:
                plugins.resolved(KINDS[option], value)


def test_an_example_that_does_not_exist_would_be_found():
    command = group.get_command(None, "attack")
    with pytest.raises(click.UsageError, match="--modle"):
        command.make_context("attack", ["--modle", "x"])


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_in_80_columns(name, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = cli(*filter(None, [name]), "--help")
    assert result.status == 0
    assert max(map(len, result.out.splitlines())) <= 80, max(result.out.splitlines(), key=len)


@pytest.mark.parametrize("name", ["choose", "audit", "train"])
def test_a_command_without_a_checkpoint_takes_no_default_from_one(name, cli):
    assert "the checkpoint's" not in " ".join(cli(name, "--help").out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_word_data_for_a_mean_stands_where_it_is_taken(name, cli):
    out = " ".join(cli(name, "--help").out.split())
    assert "train also takes" not in out
    assert ("the word data, for the training images' own" in out) == (name == "train")


def test_the_summary_lists_every_command(cli):
    result = cli("--help")
    for name, summary in SUMMARIES.items():
        assert re.search(rf"^  {name} +{re.escape(summary)}$", result.out, re.MULTILINE)
    assert cli().out == result.out  # also without a command
    for line in examples(result.out.split("Commands:")[0]):
        assert line[0] in COMMANDS


def test_list_shows_every_plug_in_with_its_options_and_source(cli):
    result = cli("list")
    assert (result.status, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    for kind in plugins.KINDS:
        for plugin in plugins.describe(kind):
            assert f"  {plugin.name}(" in result.out
            assert plugin.path in result.out
    only = cli("list", "attack").out
    assert "pgd(steps=10, step_size=None, momentum=0.0, restarts=1," in " ".join(only.split())
    assert "vgg16" in result.out
    assert "vgg16" not in only


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_light_commands_import_nothing_heavy(arguments):
    heavy = ["torch", "torchvision", "captum", "foolbox", "matplotlib", "sklearn", "numpy", "PIL", "pydantic"]
    code = (
        "import sys\n"
        "at_start = set(sys.modules)\n"
        "from robustcls.cli.main import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        f"    print('loaded', [name for name in {heavy!r} if name in sys.modules], end.code)\n"
        "    new = {name.partition('.')[0] for name in set(sys.modules) - at_start}\n"
        "    print('others', sorted(new - sys.stdlib_module_names - {'click', 'packaging', 'robustcls'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-2:] == ["loaded [] 0", "others []"]


def test_python_dash_m_is_the_same(cli):
    result = subprocess.run([sys.executable, "-m", "robustcls", "list", "step"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout == cli("list", "step").out
    assert subprocess.run([sys.executable, "-m", "robustcls", "nope"], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'?"),
        (["train", "--epoch", "3"], "--epochs"),
        (["attack", "--modle", "x"], "--model"),
        (["list", "atack"], "did you mean 'attack'?"),
    ],
)
def test_misspelt_names_get_the_nearest(arguments, words, cli):
    result = cli(*arguments)
    assert result.status == 2
    assert words in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "attack", "explain", "report", "bench"])
def test_options_stand_in_groups(name, cli):
    text = cli(name, "--help").out
    titles = re.findall(r"^(\w+) options:$", text, re.MULTILINE)
    order = ["Data", "Model", "Attack", "Optimisation", "Explanation", "Report", "Verdict", "Benchmark", "Runtime",
             "Output"]  # fmt: skip
    assert titles == [title for title in order if title in titles]
    assert {"Data", "Model", "Attack", "Runtime", "Output"} <= set(titles)
    data = text.split("Data options:")[1].split("options:")[0]
    assert "--data SPEC" in data
    assert "--device" not in data
    listed = text[text.index(" options:") :]
    for parameter in group.get_command(None, name).params:  # each option is listed once
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert len(re.findall(rf"^  (?:-\w, )?{parameter.opts[-1]}\b(?!-)", listed, re.MULTILINE)) == 1, (
                parameter.opts
            )
