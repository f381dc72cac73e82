"""The watch of the network, with a kernel that the test plays."""

import errno
import gc
import socket
import struct
from typing import Self

import pytest
import trio
import trio.testing

from mcr.actors import network_watch
from mcr.actors.mailbox import Reply
from mcr.actors.network_watch import NetworkWatch, run_network_watch
from mcr.net.rtnetlink import DUMPS

PORT = 4_711


def message(kind: int, body: bytes = b"", port: int = 0, flags: int = 0) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags, 0, port) + body


def link(index: int, name: str, *, kind: int = 16) -> bytes:
    attribute = struct.pack("HH", 5 + len(name), 3) + name.encode() + b"\0"
    return message(kind, struct.pack("BxHiII", 0, 1, index, 0x11043, 0) + attribute.ljust(-len(attribute) % 4, b"\0"))


class Kernel:
    """The other end of the watch's socket: answers each request with what there is."""

    def __init__(self) -> None:
        self.end, self._kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.end.setblocking(False)
        self._kernel.setblocking(False)
        self.links = {7: "in0"}
        self.lost = False
        self.asked = 0
        self.changing = 0  # answers that change while they are given

    # What the watch calls.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end.close()
        self._kernel.close()

    def fileno(self) -> int:
        return self.end.fileno()

    def getsockname(self) -> tuple[int, int]:
        return PORT, 0

    def send(self, request: bytes) -> None:
        self.asked += 1
        if struct.unpack_from("H", request, 4)[0] == DUMPS[0]:
            for each in self.links.items():
                self.tell(link(*each))
        self.changing -= 1
        self.tell(message(3, bytes(4), PORT, flags=0x10 if self.changing >= 0 else 0))

    def recv(self, size: int) -> bytes:
        if self.lost:
            self.lost = False
            raise OSError(errno.ENOBUFS, "lost")
        return self.end.recv(size)

    # What happens.

    def tell(self, news: bytes) -> None:
        self._kernel.send(news)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(network_watch, "_open", lambda: kernel)
    return kernel


@pytest.fixture
async def watch(nursery: trio.Nursery, kernel: Kernel) -> NetworkWatch:
    started: NetworkWatch = await nursery.start(run_network_watch)
    assert kernel.asked == len(DUMPS)
    return started


async def test_it_begins_with_everything_that_is_there(watch: NetworkWatch) -> None:
    network = await watch.snapshot()
    assert {index: each.name for index, each in network.links.items()} == {7: "in0"}
    assert await watch.changed(0) == network


async def test_what_the_kernel_has_told_is_in_the_next_snapshot(watch: NetworkWatch, kernel: Kernel) -> None:
    """Also what nobody has read yet."""
    kernel.tell(link(8, "out0"))
    assert set((await watch.snapshot()).links) == {7, 8}


async def test_who_waits_gets_the_newest_once(watch: NetworkWatch, kernel: Kernel, nursery: trio.Nursery) -> None:
    heard = []

    async def follow() -> None:
        version = (await watch.snapshot()).version
        while True:
            network = await watch.changed(version)
            version = network.version
            heard.append(set(network.links))

    nursery.start_soon(follow)
    await trio.testing.wait_all_tasks_blocked()
    for index in range(20, 60):
        kernel.tell(link(index, f"e{index}"))
    kernel.tell(link(7, "in0", kind=17))
    while not heard or heard[-1] != set(range(20, 60)):
        await trio.testing.wait_all_tasks_blocked()
    assert len(heard) < 10


async def test_everything_is_asked_for_again_when_news_was_lost(
    watch: NetworkWatch, kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    before = (await watch.snapshot()).version
    kernel.links = {9: "new"}
    kernel.lost = True
    kernel.tell(message(0))  # what wakes the watch to its loss
    network = await watch.changed(before)
    while set(network.links) != {9}:
        network = await watch.changed(network.version)
    assert kernel.asked == 2 * len(DUMPS)
    assert trio.current_time() < 1


async def test_an_answer_that_changed_while_it_was_given_is_asked_for_again(
    nursery: trio.Nursery, kernel: Kernel, autojump_clock: trio.testing.MockClock
) -> None:
    kernel.changing = 2
    started: NetworkWatch = await nursery.start(run_network_watch)
    assert set((await started.snapshot()).links) == {7}
    assert len(DUMPS) < kernel.asked <= 3 * len(DUMPS)


async def test_who_waits_in_vain_leaves_nothing_behind(watch: NetworkWatch) -> None:
    """As the rule store does every few seconds while an interface can't be opened again, on a network at rest."""
    version = (await watch.snapshot()).version
    for _ in range(50):
        async with trio.open_nursery() as callers:
            callers.start_soon(watch.changed, version)
            await trio.testing.wait_all_tasks_blocked()
            callers.cancel_scope.cancel()
    gc.collect()
    assert sum(type(each) is Reply for each in gc.get_objects()) < 5
