"""Fills in the tables of README.md and experiments/README.md, each below a comment with the command that prints it.

python experiments/readme.py            # runs the commands and writes the file
python experiments/readme.py --check    # exit status 1 where a table is not what its command prints
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
    """The text with what each block's command prints now."""
    return BLOCK.sub(lambda block: f"{block[1]}{printed_by(block[2])}\n{block[4]}", text)


def printed_by(command: str) -> str:
    """What `robustcls ...` or `python experiments/NAME.py ...` prints, from the root of the repository."""
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
    before, sys.argv = sys.argv, list(arguments)
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        sys.argv = before


def expanded(word: str) -> list[str]:
    """The files that a pattern names, in order; another word as it is."""
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
            sys.exit(f"{file.relative_to(ROOT)} is not what its commands print now: make tables")
