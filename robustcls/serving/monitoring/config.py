"""The options of `robustcls monitor DIR --write FOLDER`."""

import re
from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.errors import InputError

LEAST = 0.95  # with a lower objective, 14.4 times the error budget nears or exceeds 100%: the fast alert could not fire
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):(\d{1,5})")


@dataclass(kw_only=True)
class MonitorConfig:
    GROUP: ClassVar[str] = "Output"

    target: str = option("127.0.0.1:8080", "Address of the service.", metavar="HOST:PORT")
    alertmanager: str = option("127.0.0.1:9093", "Address of Alertmanager.", metavar="HOST:PORT")
    slo: float = option(0.999, "Objective: share of requests answered without a server error.", metavar="SHARE")
    latency: float = option(0.2, "Objective: time within which requests are answered.", metavar="SECONDS")
    latency_slo: float = option(0.99, "Objective: share of answers within --latency.", metavar="SHARE")
    min_requests: int = option(300, "Stay silent with fewer requests in the long window of a rule.", metavar="N")

    def __post_init__(self) -> None:
        for name in ("slo", "latency_slo"):
            if not LEAST <= getattr(self, name) < 1:
                raise InputError(f"`{name}={getattr(self, name):g}` is not an objective: give {LEAST} or more, below 1")
        if self.min_requests < 1:
            raise InputError(f"`min_requests={self.min_requests}` is too small: give 1 or more")
        for name in ("target", "alertmanager"):
            found = ADDRESS.fullmatch(getattr(self, name))
            if not found or not 0 < int(found[2]) < 65536:
                raise InputError(
                    f"`{name}={getattr(self, name)}` is not an address: give HOST:PORT, such as 127.0.0.1:8080"
                )
