"""Run Python in a separate process."""

import os
import subprocess
import sys


def python(code, folder):
    """Run code in a separate process that can import the test modules."""
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
