"""The options of `robustcls serve`."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError

MEGABYTE = 1 << 20
BOUNDS: dict[str, tuple[float, float]] = {  # smallest and largest value of each option
    "threads": (0, 1024), "batch": (1, 65_536), "queue": (1, 1_000_000), "connections": (1, 1_000_000),
    "max_pixels": (1, 10_000_000_000),
    "timeout": (0.001, 86_400), "drain": (0, 86_400), "max_body": (0.001, 65_536),
}  # fmt: skip


@dataclass(kw_only=True)
class ServeConfig:
    GROUP: ClassVar[str] = "Limits"

    host: str = option(
        "127.0.0.1",
        "Address to listen on; 0.0.0.0 for all addresses of this machine.",
        metavar="ADDRESS",
        group="Network",
    )
    port: int = option(8080, "Port to listen on; 0 takes a free one.", group="Network")
    threads: int = option(0, "Inference threads per model; 0 uses all processors.", group="Runtime")
    batch: int = option(32, "Largest batch: waiting images are computed together.", group="Runtime")
    queue: int = option(128, "Largest number of waiting requests per model; more are refused with 503.")
    connections: int = option(1000, "Largest number of connected clients; more are refused with 503.")
    timeout: float = option(10.0, "Longest time for a request, including its body.", metavar="SECONDS")
    drain: float = option(
        5.0, "Time after SIGTERM in which requests are still accepted while /v2/health/ready reports not ready.",
        metavar="SECONDS",
    )  # fmt: skip
    max_body: float = option(16.0, "Largest size of a request in megabytes.", metavar="MB")
    max_pixels: int = option(50_000_000, "Largest number of pixels of an encoded image.", metavar="N")
    engine: Literal["local", "ray"] = option(
        "local", "Run the service in this process, or on Ray Serve.", group="Scale"
    )
    replicas: str = option("1", "Replicas with --engine ray: a number, or a range such as 1:4.", group="Scale")
    quiet: bool = option(False, "Print errors only.", group="Runtime")

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value:
                raise InputError(f"`{name}={value:g}` is too small: give {least} or more")
            if value > most:
                raise InputError(f"`{name}={value:g}` is too large: give {most} or less")
        if not 0 <= self.port <= 65535:
            raise InputError(f"`port={self.port}` is not a port: give 0 to 65535")
        if not self.host.strip():
            raise InputError("`host` is empty: give an address, such as 127.0.0.1")
        if self.replica_range != (1, 1) and self.engine != "ray":
            raise InputError(f"`replicas={self.replicas}` needs `engine=ray`: the local engine is a single process")

    @property
    def body_bytes(self) -> int:
        return int(self.max_body * MEGABYTE)

    @property
    def replica_requests(self) -> int:
        """Requests that Ray sends to a replica at a time, per model: more than it accepts, so that the replica itself refuses
        the rest."""
        return 2 * self.queue + self.batch

    @property
    def replica_range(self) -> tuple[int, int]:
        """The smallest and the largest number of replicas. Raises InputError."""
        least, colon, most = self.replicas.partition(":")
        numbers = [least, most if colon else least]
        if not all(one.isascii() and one.isdigit() and len(one) < 5 and int(one) for one in numbers):
            raise InputError(
                f"`replicas={self.replicas}` is not a number of replicas: give a number such as 2, or a range such as 1:4"
            )
        if int(numbers[0]) > int(numbers[1]):
            raise InputError(f"`replicas={self.replicas}` ends before it begins: give the smaller number first")
        return int(numbers[0]), int(numbers[1])


def processors() -> int:
    """The number of processors that this process may use, by its affinity and by the quota of its control group."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()[:2]
        if quota != "max":
            there = min(there, max(1, int(quota) // int(period)))
    return there
