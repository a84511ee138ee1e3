"""Batches that fit in memory, and measurements of memory."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from robustcls.core.processor import proc_field

T = TypeVar("T")


class OomSafeBatches:
    """Calls a function on batches of at most `size` rows; after an out-of-memory error, `size` is halved permanently."""

    def __init__(self, size: int) -> None:
        self.size = size

    def map(self, function: Callable[[Tensor], T], rows: Tensor) -> Iterator[T]:
        """Yield the result of the function for each batch, in order.

        Raises what the function raises, including out of memory for a single row.
        """
        waiting = deque(rows.split(self.size))
        while waiting:
            part = waiting.popleft()
            if len(part) > self.size:
                waiting.extendleft(reversed(part.split(self.size)))
                continue
            try:
                result = function(part)
            except Exception as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
                self.size = (len(part) + 1) // 2
                waiting.appendleft(part)
            else:
                yield result
                continue
            if torch.cuda.is_available():  # after the except clause, whose traceback holds the tensors
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an out-of-memory error: CUDA has its own class, the CPU allocator only a message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def peak_memory_mb() -> float:
    """Return the peak memory of this process: of the GPU where there is one, else resident; 0 where it is unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_mb("VmHWM")  # getrusage would give the parent's peak where that was larger


def reset_peak_memory() -> None:
    """Reset the peak of `peak_memory_mb`, where the system allows it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: VmHWM starts at VmRSS


def resident_mb(field: str = "VmRSS") -> float:
    """Return the resident memory of this process on Linux: VmRSS is the current, VmHWM the peak value; 0 where unknown."""
    kilobytes = proc_field("self/status", field).split()[:1]
    return int(kilobytes[0]) / 2**10 if kilobytes else 0.0
