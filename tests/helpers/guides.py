"""The commands and the Python of README.md and docs/, as a reader runs them.

`python -m tests.helpers.guides DIR` writes their output into the pages.

A `console` block holds lines `$ robustcls ...`, each followed by what it prints on stdout; a `python` block is a script; a
`toml` block whose first line is a comment with a file's name becomes that file. All run in order in one folder.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

PAGES = [
    "README",
    "train",
    "attack",
    "defences",
    "explain",
    "report",
    "deploy",
    "serve",
    "monitor",
    "scale",
    "ci",
    "data",
    "audit",
    "python",
    "evaluation",
    "plugins",
]
BLOCK = re.compile(r"```(console|python|toml|)\n(.*?)```", re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """(kind, content) of each fenced block of docs/PAGE.md; the kind of a plain block is ''."""
    return BLOCK.findall(file_of(page).read_text(encoding="utf-8"))


def file_of(page: str) -> Path:
    return ROOT / ("README.md" if page == "README" else f"docs/{page}.md")


def steps(console: str) -> list[tuple[str, str]]:
    """(command, the output shown below it) of a console block."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_command(command: str, folder: Path) -> subprocess.CompletedProcess:
    program, *arguments = shlex.split(command)
    assert program == "robustcls", command
    return run([sys.executable, "-m", "robustcls", *arguments], folder)


def words_of(text: str) -> list[str]:
    """The output without what differs from machine to machine: numbers and the layout that depends on their width,
    warnings, and remarks on an epoch.
    """
    text = re.sub(r"^warning: .*\n(?: {9}.*\n)*|^  [a-z].*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"[-+]?\d[\d.,e%:/]*", "#", text).replace("-", " ").split()


def write_output(folder: Path) -> None:
    """Replaces the shown output of every command by what it prints now."""
    for page in PAGES:
        file = file_of(page)

        def filled(block: re.Match) -> str:
            kind, content = block.groups()
            if kind == "python":
                done = run([sys.executable, "-c", content], folder)
                print(done.stdout, done.stderr)
            elif kind == "console":
                lines = []
                for command, _ in steps(content):
                    done = run_command(command, folder)
                    print(f"{command}: {done.returncode}\n{done.stderr}")
                    lines.append(f"$ {command}\n{done.stdout}")
                return "```console\n" + "\n".join(lines) + "```"
            return block[0]

        file.write_text(BLOCK.sub(filled, file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_output(Path(sys.argv[1]))
