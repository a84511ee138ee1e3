"""The `robustcls` command. It finds commands by file name, and turns errors into one line and an exit status."""

import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

import click

from robustcls import __version__
from robustcls.core.errors import InputError, as_flags, unknown
from robustcls.core.files import FULL

SUMMARIES = {
    "train": "Train a classifier, adversarially or not.",
    "audit": "Find label errors and duplicates in training data.",
    "attack": "Measure clean and robust accuracy.",
    "explain": "Draw attribution maps of clean and adversarial images.",
    "certify": "Prove lower bounds on robust accuracy.",
    "report": "Attack, explain and diagnose, then write the HTML report.",
    "compare": "Show evaluations of the same samples side by side.",
    "gate": "Check accuracy thresholds in CI: exit status 0 or 1.",
    "export": "Export a model to ONNX, to run without PyTorch, and check it.",
    "serve": "Serve exported models over HTTP, with metrics.",
    "monitor": "Write alert rules for an artefact, or show the state of a service.",
    "choose": "Choose the best of several training recipes in a given time.",
    "label": "Label images with a model, to train another model on them.",
    "list": "List the plug-ins with their options and source.",
    "bench": "Measure the speed of training and attacks on this machine.",
    "doctor": "Show what is installed, what is found and what is missing.",
}
WRONG_INPUT, INTERRUPTED = 2, 130


class Commands(click.Group):
    """Import a command's module only when the command is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(SUMMARIES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in SUMMARIES:
            return None
        return importlib.import_module(f"robustcls.cli.{name}").command

    def resolve_command(self, context: click.Context, args: list[str]):
        if args and args[0] not in SUMMARIES:
            raise InputError(f"{unknown('command', args[0], SUMMARIES)}; see robustcls --help")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="robustcls")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train, attack, explain and report: adversarial robustness of image classifiers.

    \b
      robustcls train --adv pgd                   # digits, embedded: minutes
      robustcls attack --model runs/.../ckpt.pt   # clean and robust accuracy
      robustcls report --model runs/.../ckpt.pt   # one HTML file
    """


def main(
    arguments: Sequence[str] | None = None, command: click.Command | None = None, name: str = "robustcls"
) -> NoReturn:
    """Run the command line, or another click command with the same error handling, and exit.

    The exit status is 0 (success), 1 (the gate failed), 2 (wrong usage or input), 3 (inconclusive) or 130 (interrupted by
    Ctrl-C or SIGTERM).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    # --debug is accepted in any position, since users append it to a command that has just failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    with suppress(OSError):  # the current folder may have been deleted
        if "" not in sys.path and os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # so that module:callable is found there, as with `python -m robustcls`
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal cannot show is printed as its code
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_as_ctrl_c():
            status = (command or cli).main(arguments or ["--help"], prog_name=name, standalone_mode=False)
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # click turns the EOFError of a truncated file into Abort
            status = _complain(error.__cause__, debug, "")
        else:
            _say("interrupted")
            status = INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        status = 0
    except Exception as error:
        status = _complain(error, debug, next((word for word in arguments if word in SUMMARIES), ""))
    _drop_unwritten(sys.stdout)
    _drop_unwritten(sys.stderr)
    sys.exit(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """Open the null device for standard streams that are closed, as by `2>&-`.

    Otherwise a file or socket that is opened later would get the number of the stream, and messages would go there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere == number:
            os.set_inheritable(nowhere, True)
        setattr(sys, name, os.fdopen(nowhere, "w" if number else "r", encoding="utf-8"))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, by which containers and CI stop a job, like Ctrl-C: save and clean up. Ignore a second SIGTERM."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _complain(error: Exception, debug: bool, command: str) -> int:
    if debug:
        traceback.print_exc()
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, InputError) and command:
        from robustcls.cli.options import flags_of

        message = as_flags(message, flags_of(importlib.import_module(f"robustcls.cli.{command}").command))
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.?')}; see {error.ctx.command_path} --help"
    if isinstance(error, OSError) and error.errno in FULL:
        place = error.filename or ("standard output" if _came_from_printing(error) else "a file")
        message = f"cannot write {place}: {error.strerror}: make room"
    elif not isinstance(error, (InputError, click.ClickException)):  # a bug of robustcls or of the user's code
        message = f"{type(error).__name__}: {message}; --debug shows where"
    _say(" ".join(message.split()))
    return WRONG_INPUT


def _say(line: str) -> None:
    with suppress(OSError):
        click.echo(f"robustcls: {line}", err=True)


def _came_from_printing(error: Exception) -> bool:
    code = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return click.echo.__code__ in code or code[-1] is main.__code__


def _drop_unwritten(stream: TextIO) -> None:
    """Discard buffered output that cannot be written, such as on a full disk.

    Otherwise the interpreter fails again at exit, when it flushes the stream, and changes the exit status.
    """
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
