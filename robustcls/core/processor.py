"""What the processor can do."""

from contextlib import suppress
from pathlib import Path

EIGHT_BIT = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # that 8-bit arithmetic uses


def cpu_flags() -> set[str]:
    """The processor's instruction sets as Linux names them; empty on other systems."""
    return set(proc_field("cpuinfo", "flags").split())


def proc_field(file: str, field: str) -> str:
    """A field of a file that Linux has in /proc; empty where there is none."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.split(":", 1)[1].strip()
    return ""
