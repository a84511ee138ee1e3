"""A clock that a test sets."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Read by a call, as time.perf_counter is; each reading moves it on by `tick` seconds."""

    now: float = 1000.0
    tick: float = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now
