"""How the processes of `torchrun` find each other, also after a restart.

`torchrun` starts dead processes again but keeps its store, where the addresses of the dead still stand (pytorch issue
135712); who reads one connects to nobody. Its count of restarts cannot tell new from old either, since each node has its
own. So the first process names the meeting, and tells the name to those who answer now.
"""

import os
import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

PATIENCE = timedelta(minutes=10)


def meet(rank: int, size: int) -> tuple[dist.Store, int]:
    """A store that holds nothing of earlier processes, and how many such meetings there were before this one.

    Raises torch.distributed.DistStoreError where the others do not come in ten minutes.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, size, is_master=hosts_store, timeout=PATIENCE, wait_for_workers=False)
    shared = dist.PrefixStore("robustcls", store)
    if rank > 0:
        meeting = _answer(shared, rank)
    else:
        meeting = shared.add("meetings", 1)
        _gather(shared, size, meeting)
    return dist.PrefixStore(f"meeting {meeting}", shared), meeting - 1


def _answer(store: dist.Store, rank: int) -> int:
    """Says that this process is here, and waits to be told the meeting."""
    me = uuid4().hex
    store.set(f"here {rank}", me)
    meeting = int(store.get(f"told {me}"))
    store.set(f"met {meeting} {rank}", "")
    return meeting


def _gather(store: dist.Store, size: int, meeting: int) -> None:
    """Tells every process the meeting; what a dead one left behind is overwritten by the one in its place."""
    missing = set(range(1, size))
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while missing:
        for rank in missing:
            if store.check([f"here {rank}"]):
                store.set(f"told {store.get(f'here {rank}').decode()}", str(meeting))
        missing = {rank for rank in missing if not store.check([f"met {meeting} {rank}"])}
        if missing and time.monotonic() > deadline:
            raise dist.DistStoreError(f"processes {sorted(missing)} did not come in {PATIENCE}")
        time.sleep(0.02)
