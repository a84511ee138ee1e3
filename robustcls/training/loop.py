"""The training loop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from robustcls.results.records import Epoch
from robustcls.training.checkpoint import save_last
from robustcls.training.epoch import finish_epoch
from robustcls.training.run import Run

CHECK_EVERY = 16  # batches: to look at a flag on the device, or in other processes, waits for them


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the state was saved between two batches."""


def train(run: Run, on_batch: Callable[[Run], None], on_epoch: Callable[[Epoch], None]) -> None:
    """Trains to the end, validating, selecting and saving after each epoch. Raises Interrupted, with the state saved."""
    with stop_requests() as stopped, closing(run):
        while run.epoch < run.config.epochs and not run.stopped:
            run.begin_epoch()
            started = time.perf_counter()
            for x, y in run.batches():
                loss = run.step(run, x, y)
                run.note(loss, y, time.perf_counter() - started)
                started = time.perf_counter()
                on_batch(run)
                if is_time_to_check(run):
                    run.check_finite()
                    if run.world.any(stopped()):
                        save_last(run)
                        raise Interrupted
                if run.config.save_every and run.batch % run.config.save_every == 0:
                    run.check_finite()
                    save_last(run)
            on_epoch(finish_epoch(run))
            if run.world.any(stopped()) and run.epoch < run.config.epochs and not run.stopped:
                raise Interrupted


def is_time_to_check(run: Run) -> bool:
    """Whether the loop may wait: on the CPU in one process nothing has to be waited for."""
    alone_on_cpu = run.device.type == "cpu" and run.world.size == 1
    return alone_on_cpu or run.batch % CHECK_EVERY == 0 or run.batch == run.num_batches


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
