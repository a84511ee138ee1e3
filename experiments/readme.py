"""Fills in the tables of README.md and experiments/README.md: above each table, a comment holds the command that prints it.

python -m experiments.readme            # runs the commands and writes both files
python -m experiments.readme --check    # exit status 1 if a table differs from the output of its command
"""

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from robustcls.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "README.md", ROOT / "experiments" / "README.md"]
BLOCK = re.compile(r"(<!-- ((?:robustcls|python) .*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return the text with each block replaced by the current output of its command."""
    return BLOCK.sub(lambda block: f"{block[1]}{printed_by(block[2])}\n{block[4]}", text)


def printed_by(command: str) -> str:
    """Return what `robustcls`, `python FILE.py` or `python -m MODULE` prints in the root of the repository."""
    program, *words = shlex.split(command)
    arguments = list(dict.fromkeys(name for word in words for name in expanded(word)))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.chdir(ROOT):
        try:
            if program == "robustcls":
                main(arguments)
            else:
                run_script(arguments)
        except SystemExit as stop:
            if stop.code:
                raise SystemExit(f"{command}: ended with status {stop.code}") from None
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def run_script(arguments: Sequence[str]) -> None:
    is_module = arguments[0] == "-m"
    before, sys.argv = sys.argv, list(arguments[is_module:])
    try:
        if is_module:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.argv = before


def expanded(word: str) -> list[str]:
    """Return the files that match a pattern, sorted; a word without `*` is returned unchanged."""
    if "*" not in word:
        return [word]
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(word))


if __name__ == "__main__":
    for file in FILES:
        old = file.read_text(encoding="utf-8")
        new = fill(old)
        if sys.argv[1:] != ["--check"]:
            file.write_text(new, encoding="utf-8")
        elif old != new:
            sys.exit(f"{file.relative_to(ROOT)} differs from what its commands print now: run make tables")
