"""The training loop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from robustcls.core.records import Epoch
from robustcls.training.run import Run


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the state was saved between two batches."""


def train(run: Run, on_batch: Callable[[Run], None], on_epoch: Callable[[Epoch], None]) -> None:
    """Trains to the end, validating, selecting and saving after each epoch. Raises Interrupted, with the state saved."""
    with stop_requests() as stopped:
        while run.epoch < run.config.epochs:
            started = time.perf_counter()
            for x, y in run.batches():
                loss = run.step(run, x, y)
                run.note(loss, y, time.perf_counter() - started)
                started = time.perf_counter()
                on_batch(run)
                if stopped():
                    run.save_last()
                    raise Interrupted
            on_epoch(run.finish_epoch())


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a flag, so that no update is cut in half; a second one stops at once."""
    requests: list[int] = []

    def request(number: int, _frame: object) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requests)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
