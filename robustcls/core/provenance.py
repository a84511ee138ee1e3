"""The versions and the commit that a result was made with."""

import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SERVING = (  # packages of a service and of its competitors in the contests
    "onnxruntime", "starlette", "uvicorn", "httptools", "uvloop", "prometheus-client", "pydantic", "fastapi", "ray", "numpy",
    "torch", "pillow",
)  # fmt: skip
PACKAGES = ("robustcls", "torch", "torchvision", "foolbox", "captum", "numpy", "matplotlib", "scikit-learn")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the packages that affect a result; packages not installed are left out."""
    installed = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def commit() -> str:
    """Return the git commit of the running code, with + if the work tree is modified; "" outside a checkout."""
    home = Path(__file__).resolve().parents[2]
    if not (home / ".git").exists():
        return ""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""
