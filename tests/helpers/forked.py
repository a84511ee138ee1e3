"""A run that several processes share, as torchrun starts them, but forked from one that has imported torch."""

import os
import subprocess
import sys
from pathlib import Path

FORKS = """
import os, runpy, socket, sys
import sklearn.datasets, robustcls.cli.main, robustcls.evaluation.evaluate, robustcls.training.run
import torch._dynamo  # which the first optimizer imports

sizes, program, *arguments = sys.argv[1:]
for size in map(int, sizes.split(",")):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            sys.argv = [program, *arguments]
            (runpy.run_path if program.endswith(".py") else runpy.run_module)(program, run_name="__main__")
            sys.exit()
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(ends):
        sys.exit(max(map(abs, ends)))
"""


def forked(sizes: tuple[int, ...], program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a file `x.py`, or a module as `python -m` does, in so many processes, and again for each further size.

    It ends with the first size of which a process fails, by the largest exit status.
    """
    path = os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))
    return subprocess.run(
        [sys.executable, "-c", FORKS, ",".join(map(str, sizes)), program, *map(str, arguments)],
        cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
