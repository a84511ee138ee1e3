"""A clock that tests control."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Callable like time.perf_counter; each call advances it by `tick` seconds."""

    now: float = 1000.0
    tick: float = 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now
