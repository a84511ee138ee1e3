"""Python in a process of its own."""

import os
import subprocess
import sys


def python(code, folder):
    """Runs code in a process of its own; it finds the test modules."""
    found = os.pathsep.join(sys.path)
    known = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=known | {"PYTHONPATH": found},
        capture_output=True,
        text=True,
        timeout=120,
    )
