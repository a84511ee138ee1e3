"""Processes that meet after others died must not take the dead for the living."""

import threading
import time

import pytest
import torch.distributed as dist

from robustcls.runtime import rendezvous


@pytest.fixture
def store():
    """A store as torchrun keeps it over a restart: process 1 said that it was here, was told a meeting, and died."""
    store = dist.HashStore()
    store.set("here 1", "dead")
    store.set("here 2", "dead too")
    store.set("told dead", "1")
    store.set("met 1 1", "")
    store.add("meetings", 1)
    return store


def test_the_living_meet_whoever_comes_first(store):
    found = {}

    def process(rank, delay):
        time.sleep(delay)
        if rank:
            found[rank] = rendezvous._answer(store, rank)
        else:
            found[rank] = store.add("meetings", 1)
            rendezvous._gather(store, 3, found[rank])

    threads = [threading.Thread(target=process, args=pair, daemon=True) for pair in ((0, 0.1), (1, 0.0), (2, 0.3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {0: 2, 1: 2, 2: 2}


def test_who_does_not_come_is_named(store, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", rendezvous.timedelta(seconds=0.2))
    with pytest.raises(dist.DistStoreError, match=r"processes \[1, 2\] did not come"):
        rendezvous._gather(store, 3, store.add("meetings", 1))
