"""Run the commands and the Python code of README.md and docs/, as a reader would.

`python -m tests.helpers.guides DIR` writes their current output into the pages.

A `console` block has lines `$ robustcls ...`, each followed by the stdout of the command; a `python` block is a script; a
`toml` block whose first line is a comment with a file name becomes that file. All blocks run in order, in one folder.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import ROOT

PAGES = [
    "README",
    "train",
    "labels",
    "attack",
    "defences",
    "certify",
    "bounds",
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
    """Return (kind, content) of each fenced block of docs/PAGE.md; the kind of a plain block is ''."""
    return BLOCK.findall(file_of(page).read_text(encoding="utf-8"))


def file_of(page: str) -> Path:
    return ROOT / ("README.md" if page == "README" else f"docs/{page}.md")


def steps(console: str) -> list[tuple[str, str]]:
    """Return (command, output shown below it) for each command of a console block."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


FORKS = """
import json, os, sys
import sklearn.datasets, robustcls.evaluation.evaluate, robustcls.reporting, robustcls.training.run
import torch._dynamo  # the first optimizer imports this

def next_task():
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()

task = next_task()  # from here on, the code runs in a child
os.chdir(task["folder"])
for number, file in enumerate((os.devnull, task["stdout"], task["stderr"])):
    os.dup2(os.open(file, os.O_RDWR), number)
if task["code"] is None:
    from robustcls.cli.main import main
    sys.argv = ["robustcls", *task["arguments"]]
    main(task["arguments"])
exec(task["code"])
"""


class Reader:
    """Runs commands and scripts in a folder, each in its own process, forked from one that has imported torch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.forks = subprocess.Popen([sys.executable, "-c", FORKS], env=environment, **pipes)

    def run_command(self, command: str) -> subprocess.CompletedProcess:
        program, *arguments = shlex.split(command)
        assert program == "robustcls", command
        return self._run(arguments=arguments)

    def run_script(self, code: str) -> subprocess.CompletedProcess:
        return self._run(code=code)

    def _run(self, code: str | None = None, arguments: list[str] | None = None) -> subprocess.CompletedProcess:
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            task = {"folder": str(self.folder), "code": code, "arguments": arguments}
            self.forks.stdin.write(json.dumps(task | {"stdout": out.name, "stderr": err.name}) + "\n")
            self.forks.stdin.flush()
            status = int(self.forks.stdout.readline())
            return subprocess.CompletedProcess(arguments or code, status, out.read(), err.read())

    def close(self) -> None:
        self.forks.communicate()


def words_of(text: str) -> list[str]:
    """Split output into words, without what differs between machines: numbers and the layout that depends on their width,
    warnings, and notes on an epoch.
    """
    text = re.sub(r"^warning: .*\n(?: {9}.*\n)*|^  [a-z].*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"[-+]?\d[\d.,e%:/]*", "#", text).replace("-", " ").split()


def write_output(folder: Path) -> None:
    """Replace the shown output of every command by its current output."""
    reader = Reader(folder)
    for page in PAGES:
        file = file_of(page)

        def filled(block: re.Match) -> str:
            kind, content = block.groups()
            if kind == "python":
                done = reader.run_script(content)
                print(done.stdout, done.stderr)
            elif kind == "console":
                lines = []
                for command, _ in steps(content):
                    done = reader.run_command(command)
                    print(f"{command}: {done.returncode}\n{done.stderr}")
                    lines.append(f"$ {command}\n{done.stdout}")
                return "```console\n" + "\n".join(lines) + "```"
            return block[0]

        file.write_text(BLOCK.sub(filled, file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_output(Path(sys.argv[1]))
