"""Repeated timing of a function."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block, PyTorch computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def milliseconds(run: Callable[[], object], *, most: int, least: int, seconds: float) -> list[float]:
    """Return the milliseconds of each call, after three warm-up calls.

    It makes at least `least` calls, and then more until there are `most` or the seconds have passed.
    """
    for _ in range(3):
        run()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < least or (len(times) < most and time.perf_counter() - began < seconds):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times
