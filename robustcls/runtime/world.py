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
    """This process among `size`; alone by default."""

    rank: int = 0
    size: int = 1
    restarts: int = 0  # how often torchrun has started these processes again

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """Every size-th item, from the rank on."""
        return items[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on the CPU, of a tensor that lies there."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def total(self, value: Tensor) -> float:
        """The sum over all processes of one number each, which stays as it is."""
        return float(self.sum(value.detach().cpu().clone()))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return bool(self.sum(torch.tensor(int(flag))))

    def share_buffers(self, module: nn.Module) -> None:
        """Gives every process the first one's buffers, such as BatchNorm's statistics."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes; itself where there is one."""
        return DistributedDataParallel(module) if self.size > 1 else module

    @contextmanager
    def claim(self, *places: tuple[str | Path, str], folder: bool = False) -> Iterator[None]:
        """The places, each with the option that named it, are written by these processes alone until the end.

        folder: they are folders. Raises InputError, in all of them, where another run writes there.
        """
        with ExitStack() as held:
            refusal = ""
            try:
                for path, flag in places if self.first else ():
                    held.enter_context(claim(path, flag, folder=folder))
            except InputError as error:
                refusal = str(error)
            if refusal := self.gather(refusal)[0]:
                raise InputError(refusal)
            yield

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def join_world() -> World:
    """The world that `torchrun` describes in the environment, joined; a world of one without it."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if size == 1:
        return World(restarts=restarts)
    if not dist.is_initialized():
        store, *_ = next(dist.rendezvous("env://"))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # torchrun keeps its store over a restart, and with it the addresses of dead processes (pytorch#135712). The
            # count of restarts tells them apart, but each node has its own: several nodes need
            # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun, where processes may be restarted.
            store = dist.PrefixStore(f"restart {restarts}", store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    world = World(dist.get_rank(), dist.get_world_size())
    return replace(world, restarts=max(world.gather(restarts)))  # each node has its own count


def end_process(status: int) -> NoReturn:
    """Ends a process of torchrun that has done its work, without the interpreter's way out.

    On that way a thread of PyTorch can abort the process ("terminate called without an active exception"), even after
    destroy_process_group, and torchrun takes that for a failure of all processes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
