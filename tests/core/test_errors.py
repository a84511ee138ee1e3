"""Errors name Python options; on the command line they name flags."""

import click
import pytest

from robustcls.cli.options import flags_of
from robustcls.core.errors import as_flags

FLAGS = {"eps": "--eps", "batch_size": "--batch-size", "attacks": "--attack", "resume": "--resume", "n": "--n"}


@pytest.mark.parametrize(
    ("python", "shown"),
    [
        ("give `eps`, such as `eps=0.5`", "give --eps, such as --eps 0.5"),
        ('`eps="8/255"`', "--eps 8/255"),
        ("lower `batch_size`", "lower --batch-size"),
        ('use `attacks=["square"]` or `attacks="pgd(steps=20)"`', "use --attack square or --attack pgd(steps=20)"),
        ("go on with `resume=True`", "go on with --resume"),
        ("`input_size=(3, 32, 32)` and `robustcls attack`", "`input_size=(3, 32, 32)` and `robustcls attack`"),
        ("a path with ` one", "a path with ` one"),
    ],
)
def test_options_in_backticks_become_the_flags_of_the_command(python, shown):
    assert as_flags(python, FLAGS) == shown


def test_flags_are_those_that_the_command_has():
    command = click.Command(
        "attack",
        params=[click.Option(["--attack", "attack"]), click.Option(["-n", "--n"]), click.Option(["--eps-grid"])],
    )
    assert flags_of(command) == {"attack": "--attack", "attacks": "--attack", "n": "--n", "eps_grid": "--eps-grid"}
    assert flags_of(None) == {}
