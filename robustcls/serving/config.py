"""The options of `robustcls serve`."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.errors import InputError

MEGABYTE = 1 << 20
BOUNDS: dict[str, tuple[float, float]] = {  # the least and the most
    "threads": (0, 1024), "batch": (1, 65_536), "queue": (1, 1_000_000), "connections": (1, 1_000_000),
    "max_pixels": (1, 10_000_000_000),
    "timeout": (0.001, 86_400), "drain": (0, 86_400), "max_body": (0.001, 65_536),
}  # fmt: skip


@dataclass(kw_only=True)
class ServeConfig:
    GROUP: ClassVar[str] = "Limits"

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for every one.", metavar="ADDRESS", group="Network")
    port: int = option(8080, "Port to listen on; 0 takes a free one.", group="Network")
    threads: int = option(0, "Threads that compute, of each model; 0 for the processors there are.", group="Runtime")
    batch: int = option(32, "Images that wait are computed together, at most so many.", group="Runtime")
    queue: int = option(128, "Requests that may wait for a model; more are refused with 503.")
    connections: int = option(1000, "Clients that may be connected; more are refused with 503.")
    timeout: float = option(10.0, "Seconds that a request may take, its body included.", metavar="SECONDS")
    drain: float = option(
        5.0, "Seconds after SIGTERM in which requests are still taken, while /v2/health/ready says no.",
        metavar="SECONDS",
    )  # fmt: skip
    max_body: float = option(16.0, "Megabytes that a request may have.", metavar="MB")
    max_pixels: int = option(50_000_000, "Pixels that an encoded image may have.", metavar="N")
    engine: Literal["local", "ray"] = option(
        "local", "What runs the service: this process, or Ray Serve.", group="Scale"
    )
    replicas: str = option("1", "Of --engine ray: how many, or from how few to how many, such as 1:4.", group="Scale")
    quiet: bool = option(False, "Print errors only.", group="Runtime")

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if not least <= value:
                raise InputError(f"`{name}={value:g}` is too small: give {least} or more")
            if value > most:
                raise InputError(f"`{name}={value:g}` is too large: give {most} or less")
        if not 0 <= self.port <= 65535:
            raise InputError(f"`port={self.port}` is no port: give 0 to 65535")
        if not self.host.strip():
            raise InputError("`host` is empty: give an address, such as 127.0.0.1")
        if self.replica_range != (1, 1) and self.engine != "ray":
            raise InputError(f"`replicas={self.replicas}` needs `engine=ray`: this process is one")

    @property
    def body_bytes(self) -> int:
        return int(self.max_body * MEGABYTE)

    @property
    def replica_requests(self) -> int:
        """Requests that Ray gives a replica at a time, for each model: more than it takes, so that it refuses the rest."""
        return 2 * self.queue + self.batch

    @property
    def replica_range(self) -> tuple[int, int]:
        """How few and how many replicas there may be. Raises InputError."""
        least, colon, most = self.replicas.partition(":")
        numbers = [least, most if colon else least]
        if not all(one.isascii() and one.isdigit() and len(one) < 5 and int(one) for one in numbers):
            raise InputError(
                f"`replicas={self.replicas}` is no number of replicas: give one, such as 2, or a range, such as 1:4"
            )
        if int(numbers[0]) > int(numbers[1]):
            raise InputError(f"`replicas={self.replicas}` ends before it begins: give the smaller number first")
        return int(numbers[0]), int(numbers[1])


def processors() -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control group."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()[:2]
        if quota != "max":
            there = min(there, max(1, int(quota) // int(period)))
    return there
