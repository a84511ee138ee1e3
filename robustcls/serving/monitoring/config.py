"""The options of `robustcls monitor DIR --write FOLDER`."""

import re
from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.errors import InputError

LEAST = 0.95  # an objective below it has so large an error budget that 14.4 times its rate is more than everything
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):(\d{1,5})")


@dataclass(kw_only=True)
class MonitorConfig:
    GROUP: ClassVar[str] = "Output"

    target: str = option("127.0.0.1:8080", "Where the service answers.", metavar="HOST:PORT")
    alertmanager: str = option("127.0.0.1:9093", "Where Alertmanager answers.", metavar="HOST:PORT")
    slo: float = option(0.999, "Share of requests to be answered without a server's error.", metavar="SHARE")
    latency: float = option(0.2, "Seconds within which a request is to be answered.", metavar="SECONDS")
    latency_slo: float = option(0.99, "Share of the answers to be within --latency.", metavar="SHARE")
    min_requests: int = option(300, "Requests in a rule's long window below which it stays silent.", metavar="N")

    def __post_init__(self) -> None:
        for name in ("slo", "latency_slo"):
            if not LEAST <= getattr(self, name) < 1:
                raise InputError(f"`{name}={getattr(self, name):g}` is no objective: give {LEAST} or more, below 1")
        if self.min_requests < 1:
            raise InputError(f"`min_requests={self.min_requests}` is too small: give 1 or more")
        for name in ("target", "alertmanager"):
            found = ADDRESS.fullmatch(getattr(self, name))
            if not found or not 0 < int(found[2]) < 65536:
                raise InputError(
                    f"`{name}={getattr(self, name)}` is no address: give HOST:PORT, such as 127.0.0.1:8080"
                )
