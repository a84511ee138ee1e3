"""Progress on stderr: a bar on a terminal, otherwise a line every half minute, both with the remaining time."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

T = TypeVar("T")

DELAY = 2.0  # seconds before anything is shown
EVERY = 30.0  # seconds between two lines, counted over all bars

_last_line: list[float] = []  # time of the last line, or of the creation of the first bar; empty before that


class Bar:
    """Progress of a task. Nothing is shown in the first two seconds, if TQDM_DISABLE is set, or if `show` is False.

    total: number of units. done: units that were finished before this run. unit: name of the unit, such as image; may be
    empty. scale: write large numbers as 12k. clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        unit: str = "batch",
        *,
        show: bool = True,
        done: int = 0,
        scale: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.label, self.unit, self.clock = total, label, unit, clock
        self.begun, self.before, self.done = clock(), done, done
        show = show and not os.environ.get("TQDM_DISABLE")
        terminal = show and sys.stderr is not None and sys.stderr.isatty()
        self.lines = show and not terminal
        self.bar: Any = None
        if terminal:
            from tqdm import tqdm

            self.bar = tqdm(
                total=total, initial=done, desc=label, unit=unit, unit_scale=scale, delay=DELAY, leave=False, disable=False
            )  # fmt: skip
        elif self.lines and not _last_line:
            _last_line.append(self.begun)

    def advance(self, count: int = 1, remark: str = "") -> None:
        """Add finished units. remark: additional text, such as `12 robust`."""
        self.done += count
        if self.bar is not None:
            self.bar.set_description(self.label, refresh=False)
            if remark:
                self.bar.set_postfix_str(remark, refresh=False)
            self.bar.update(count)
        elif self.lines:
            now = self.clock()
            if now - _last_line[0] >= EVERY and now - self.begun >= DELAY and self.done < self.total:
                _last_line[0] = now
                print(self._line(now, remark), file=sys.stderr, flush=True)

    def above(self) -> AbstractContextManager:
        """Return a context in which lines may be printed to stdout without breaking the bar."""
        if self.bar is None:
            return nullcontext()
        from tqdm import tqdm

        return tqdm.external_write_mode(file=sys.stdout)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, now: float, remark: str) -> str:
        plural = "" if not self.unit or self.total == 1 else "es" if self.unit.endswith("ch") else "s"
        left = (self.total - self.done) * (now - self.begun) / max(self.done - self.before, 1)
        parts = [f"{self.done} of {self.total} {self.unit}{plural}".rstrip(), remark, f"{duration(left)} left"]
        return f"{self.label}: {', '.join(filter(None, parts))}"


def follow(items: Sequence[T], label: str, unit: str = "batch", *, show: bool = True) -> Iterator[T]:
    """Yield the items one by one and show their progress."""
    with Bar(len(items), label, unit, show=show) as bar:
        for item in items:
            yield item
            bar.advance()


def show_attacks(show: bool = True) -> Callable[..., Iterator[Any]]:
    """Return a wrapper for the batches of an attack that shows finished samples, robust samples and the remaining time."""

    def wrap(batches: Sequence[Any], label: str, total: int, robust: Callable[[], int]) -> Iterator[Any]:
        with Bar(total, label, "", show=show) as bar:  # the unit is an image or a self-check
            for batch in batches:
                yield batch
                bar.advance(len(batch), f"{robust()} robust")

    return wrap


def duration(seconds: float) -> str:
    """Return a duration as text, such as `40 s`, `3 min 20 s` or `1 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
