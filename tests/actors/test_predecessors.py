"""The workers of the mcrd before this one are told to end."""

import os
import socket

import pytest
import trio
import trio.testing

from mcr.actors import predecessors
from mcr.actors.predecessors import Predecessors
from mcr.process.descriptor_store import DescriptorStore


async def test_a_worker_is_known_until_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this mcrd is killed while it waits, the next one must find the worker."""
    monkeypatch.setattr(predecessors, "_PATIENCE_SECONDS", 60.0)  # the "worker" is this process
    ours, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    store = DescriptorStore(inherited={"channel.0": os.dup(ours.fileno())})
    ours.close()
    with worker, Predecessors(store) as former:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(former.end)
            await trio.lowlevel.wait_readable(worker)
            assert worker.recv(1) == b""  # it is told
            await trio.testing.wait_all_tasks_blocked()
            assert [*store.all()] == ["channel.0"]
            worker.send(b"\0")
        assert [*store.all()] == []
