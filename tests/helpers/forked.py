"""Start the processes of a shared run as torchrun does, but forked from a process that has imported torch."""

import os
import subprocess
import sys
from pathlib import Path

FORKS = """
import os, runpy, socket, sys
import sklearn.datasets, robustcls.cli.main, robustcls.evaluation.evaluate, robustcls.training.run
import torch._dynamo  # the first optimizer imports this

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
    """Run a file `x.py`, or a module as with `python -m`, once for each size, in that number of processes.

    It stops after the first size where a process fails, with the largest exit status.
    """
    path = os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))
    return subprocess.run(
        [sys.executable, "-c", FORKS, ",".join(map(str, sizes)), program, *map(str, arguments)],
        cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
