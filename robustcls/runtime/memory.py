"""Batches that fit in memory."""

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
    """Calls a function on batches of at most `size` rows; where one is out of memory, size is halved for good."""

    def __init__(self, size: int) -> None:
        self.size = size

    def map(self, function: Callable[[Tensor], T], rows: Tensor) -> Iterator[T]:
        """function of each batch, in order. Raises what function raises, and out of memory for a single row."""
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
    """CUDA has an exception of its own for it; the CPU allocator says it in words."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def peak_memory_mb() -> float:
    """Peak memory of this process: of the device where there is one, else resident; 0 where it cannot be told."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_mb("VmHWM")  # getrusage would give the parent's peak where that was larger


def reset_peak_memory() -> None:
    """Begins the peak of `peak_memory_mb` anew, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: VmHWM starts at VmRSS


def resident_mb(field: str = "VmRSS") -> float:
    """This process's resident memory as Linux tells it: VmRSS now, VmHWM at its peak; 0 where it cannot be told."""
    kilobytes = proc_field("self/status", field).split()[:1]
    return int(kilobytes[0]) / 2**10 if kilobytes else 0.0
