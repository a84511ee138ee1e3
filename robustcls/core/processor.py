"""Features of the processor."""

from contextlib import suppress
from pathlib import Path

EIGHT_BIT = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # used by 8-bit arithmetic


def cpu_flags() -> set[str]:
    """Return the processor's instruction sets by their Linux names; empty on other systems."""
    return set(proc_field("cpuinfo", "flags").split())


def proc_field(file: str, field: str) -> str:
    """Return a field of a file in /proc (Linux); "" if it does not exist."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.split(":", 1)[1].strip()
    return ""
