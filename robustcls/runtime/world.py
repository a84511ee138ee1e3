"""The processes that `torchrun` started, which share one training or one evaluation."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from robustcls.core.claims import claim
from robustcls.core.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The group of processes that this one, number `rank` of `size`, belongs to; by default only this process."""

    rank: int = 0
    size: int = 1
    restarts: int = 0  # how often torchrun has restarted the processes

    @property
    def first(self) -> bool:
        """Whether this is the process of rank 0, which writes files and prints."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's items: every size-th one, from the rank on."""
        return items[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Sum a CPU tensor over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, value: Tensor) -> float:
        """Return the sum of a number over all processes; `value` is not changed."""
        return float(self.sum(value.detach().cpu().clone()))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag))))

    def share_buffers(self, module: nn.Module) -> None:
        """Copy the buffers of the first process, such as BatchNorm statistics, to all processes."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over the processes; the module itself where there is only one."""
        return DistributedDataParallel(module) if self.size > 1 else module

    @contextmanager
    def claim(self, *places: tuple[str | Path, str], folder: bool = False) -> Iterator[None]:
        """Lock files or folders against other runs within the block. Raises InputError, in all processes, where one is locked.

        places: pairs of a path and the option that named it. folder: whether they are folders.
        """
        with ExitStack() as claims:
            refusal = ""
            try:
                for path, flag in places if self.first else ():
                    claims.enter_context(claim(path, flag, folder=folder))
            except InputError as error:
                refusal = str(error)
            if refusal := self.gather(refusal)[0]:
                raise InputError(refusal)
            yield

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """Join the process group that `torchrun` describes in the environment; without it, return a World of one process."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if size == 1:
        return World(restarts=restarts)
    if not dist.is_initialized():
        store, *_ = next(dist.rendezvous("env://"))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store across restarts, including the addresses of dead processes (pytorch#135712). The prefix
            # with the number of restarts separates them. Each node counts its own restarts, so this works only on one node:
            # with several, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun where processes may be restarted.
            store = dist.PrefixStore(f"restart {restarts}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    world = World(dist.get_rank(), dist.get_world_size())
    return replace(world, restarts=max(world.gather(restarts)))  # each node has its own count


def end_process(status: int) -> NoReturn:
    """End a process of torchrun that has done its work, without the interpreter's normal shutdown.

    During that shutdown, a thread of PyTorch can abort the process ("terminate called without an active exception"), even after
    destroy_process_group, and torchrun treats this as a failure of all processes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
