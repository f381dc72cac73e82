"""What the capture filter tells of transport streams: in brief, where that says as much as all of it."""

import errno
import mmap
import os
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from threading import Barrier, Event
from unittest.mock import Mock

import attrs
import pytest

from filters import SOL_PACKET, WANTED, WANTED6, Wire, frame, frame6, may_load_ebpf, opened
from mcr._native import lib
from mcr.model.flow import Flow, Input
from mcr.model.health import Health
from mcr.model.rule import Output, Rule
from mcr.net.filter import tap as filter_tap
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.filter.path import open_kernel_path
from mcr.net.filter.tap import StreamTap
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.placement import PlacedRule
from mcr.relay.watched import WatchedStreams
from mcr.shm.kernel_counters import KernelCounters
from mcr_process import wait_until
from streams import PMT, VIDEO, Television, Watched, pmt, rtp, ts

CAPTURE, STREAM = 3, 7
GROUP = IPv4Address("239.1.1.1")
PACKET_VNET_HDR, NEEDS_CHECKSUM, GSO_UDP_L4 = 15, 1, 5
EXTENDED = b"\x90"  # the first byte of RTP with an extension, of the four bytes that follow


@pytest.fixture(name="in_place")
def find_whether_in_place() -> bool:
    """Whether packets are read where they lie, where the kernel lets filters do so (Linux 6.5)."""
    return True


@pytest.fixture
def tap(wire: Wire, in_place: bool) -> Iterator[StreamTap]:
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    with StreamTap() as made:
        filters = EbpfFilters(DescriptorStore(), None, made)
        filters.change([(CAPTURE, WANTED[0])], ())
        made.begin(STREAM, Health.TS)
        made._maps.slice *= in_place
        made.tell(STREAM, CAPTURE, WANTED[0])
        count = opened(filters, wire, CAPTURE)
        yield made
        count.close()
        filters.close()


def spoilt(payload: bytes, chance: random.Random) -> bytes:
    """One byte in front of a packet is another."""
    found = bytearray(payload)
    byte, bit = chance.choice(((0, 1), (1, 0x80), (1, 0x40), (2, 1), (3, 0x20), (3, 4)))
    found[188 * chance.randrange(len(payload) // 188) + byte] ^= bit
    return bytes(found)


def with_odd_table(number: int) -> bytes:
    """A PMT that begins behind what an adaptation field and the rest of another section take."""
    table = pmt(number)[5:40]
    return ts(PMT, number, starts=True, field=bytes(7), content=b"\x03abc" + table)


def datagrams(count: int) -> list[bytes]:
    """A television stream with faults: missing datagrams, spoilt bytes, and tables where they are not looked for."""
    chance = random.Random(20_260_101)
    television = Television()
    found = []
    for number in range(count):
        payload = television.datagram(number)
        if number % 3 == 1:
            payload = spoilt(payload, chance)
        if number % 11 == 5:
            payload = payload[: 188 * chance.randrange(1, 7)]
        if number % 13 == 6:
            payload = with_odd_table(number) + payload[188:]
        if number % 17 == 8:
            payload = ts(VIDEO, number, starts=True, content=b"\0\0\1\xe0") + payload[188:]
        if number % 50 != 20:
            found.append(payload)
    return found


def framed(payload: bytes) -> bytes:
    empty = frame()[:-14]
    size = len(payload) + 8
    return empty[:16] + (20 + size).to_bytes(2) + empty[18:38] + size.to_bytes(2) + empty[40:42] + payload


def sent(wire: Wire, payloads: list[bytes]) -> None:
    wire.send(*map(framed, payloads))


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "copied"])
@pytest.mark.parametrize("header", [b"", b"\x80", EXTENDED], ids=["plain", "rtp", "extended"])
def test_a_brief_says_as_much_as_the_whole(tap: StreamTap, wire: Wire, header: bytes) -> None:
    """The same faults are found in what the filter tells as in the datagrams themselves."""
    payloads = datagrams(400)
    if header:
        gap = bytes(4) if header == EXTENDED else b""
        payloads = [header + rtp(at, kind=33, payload=gap + each)[1:] for at, each in enumerate(payloads)]
    whole = Watched(lib.MCR_STREAM_TS).take_all(payloads)
    sent(wire, payloads)
    wait_until(lambda: tap.read(STREAM, Health.TS).packets == len(payloads), "all were told")
    told = tap.read(STREAM, Health.TS)
    assert told.ts
    found = (told.ts.continuity, told.ts.sync_losses, told.ts.sync_bytes, told.ts.transport)
    assert found == (whole.continuity, whole.sync_losses, whole.sync_bytes, whole.transport)
    assert min(whole.continuity, whole.sync_bytes, whole.transport) > 0
    assert (told.lost, told.unseen) == (whole.lost if not header else 0, 0)
    assert told.ts.pat_age is not None
    assert told.ts.pmt_age is not None


def test_what_several_processors_tell_is_put_in_order(tap: StreamTap, wire: Wire) -> None:
    """Each has a ring of its own; a stream that moves between them is as sound as it came."""
    processors = sorted(os.sched_getaffinity(0))
    television = Television()
    payloads = [b"\x80" + rtp(at, kind=33, payload=television.datagram(at))[1:] for at in range(200)]
    try:
        for at, payload in enumerate(payloads):
            os.sched_setaffinity(0, {processors[at // 3 % len(processors)]})
            sent(wire, [payload])
    finally:
        os.sched_setaffinity(0, processors)
    wait_until(lambda: tap.read(STREAM, Health.TS).packets == len(payloads), "all were told")
    told = tap.read(STREAM, Health.TS)
    assert told.rtp
    assert told.ts
    assert (told.unseen, told.lost, told.rtp.reordered, told.ts.continuity) == (0, 0, 0, 0)


def in_super_frames(wire: Wire, payload: bytes, count: int) -> tuple[socket.socket, bytes]:
    """A sender of super-frames, and one of so many datagrams."""
    with wire.a.entered():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    raw.bind(("a0", 0x0800))
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    head = struct.pack("=BBHHHH", NEEDS_CHECKSUM, GSO_UDP_L4, 42, len(payload), 34, 6)
    return raw, head + framed(payload * count)


@pytest.mark.parametrize("datagrams", [1, 40])
def test_what_comes_by_two_processors_at_once_is_told_exactly(tap: StreamTap, wire: Wire, datagrams: int) -> None:
    """Two senders of one stream, alone or in super-frames: each datagram is seen once."""
    processors = os.sched_getaffinity(0)
    if len(processors) < 2:
        pytest.skip("needs two processors")
    one, other = min(processors), max(processors)
    raw, whole = (
        in_super_frames(wire, ts(VIDEO, 0), datagrams) if datagrams > 1 else (wire.sender, framed(ts(VIDEO, 0)))
    )
    times = min(1_200, tap._maps.slots // 24) // datagrams  # told whole, they fit a ring
    together = Barrier(2)

    def send_by(processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread
        together.wait()
        for _ in range(times):
            raw.send(whole)

    with raw, ThreadPoolExecutor(2) as both:
        list(both.map(send_by, (one, other)))
    wait_until(lambda: tap.read(STREAM, Health.TS).packets >= 2 * times * datagrams, "all were told")
    told = tap.read(STREAM, Health.TS)
    assert (told.packets, told.unseen) == (2 * times * datagrams, 0)


def slots_told(tap: StreamTap) -> int:
    """By all processors: the first number of each ring."""
    step = lib.mcr_bpf_tap_step(tap._maps)
    with mmap.mmap(tap._maps.rings, step * tap._maps.processors) as rings:
        return sum(int.from_bytes(rings[at : at + 8], "little") for at in range(0, len(rings), step))


@pytest.mark.parametrize(
    ("first", "slots"),
    [
        (ts(VIDEO, 0), 1),
        (ts(VIDEO, 0, field=b"\x10" + bytes(6)), 2),
        (ts(VIDEO, 0, starts=True, content=b"\0\0\1\xe0"), 2),
        (pmt(0), 24),
    ],
    ids=["payload", "a clock", "media begins", "a table"],
)
@pytest.mark.parametrize("header", [b"", rtp(0, kind=33, payload=b"")], ids=["plain", "rtp"])
def test_most_datagrams_take_one_slot(tap: StreamTap, wire: Wire, header: bytes, first: bytes, slots: int) -> None:
    """A line of the cache tells of seven packets; of their clocks, another one; of a table, all that it takes."""
    if not tap._maps.slice:
        pytest.skip("this kernel lets no filter read packets where they lie")
    sent(wire, [header + first + b"".join(ts(VIDEO, at) for at in range(1, 7))])
    wait_until(lambda: tap.read(STREAM, Health.TS).packets == 1, "it is told")
    assert slots_told(tap) == slots


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_a_stream_of_the_kernel_path_is_found_by_its_rule(wire: Wire, is_ipv6: bool) -> None:
    """It has the number of the rule's slot; the filter has found the rule, and looks for its flow nowhere else."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    flows, one = (WANTED6, frame6()) if is_ipv6 else (WANTED, frame())
    store = DescriptorStore()
    with open_kernel_path(1, KernelCounters.make(store)) as path, StreamTap() as made:
        filters = EbpfFilters(store, path, made, suppress=True)
        if not filters.suppressor or not filters.suppressor.has_tcx:
            pytest.skip("there is no kernel path here")
        filters.change([(CAPTURE, each) for each in flows[:2]], ())
        made.begin(STREAM, Health.RTP)
        made.tell(STREAM, CAPTURE, flows[1])
        path.forward(CAPTURE, flows[0], STREAM, 0, ())  # what is longer than 0 bytes is the worker's
        path._gates[CAPTURE].epoch = 1
        count = opened(filters, wire, CAPTURE)
        wire.send(one)
        wait_until(lambda: made.read(STREAM, Health.RTP).packets == 1, "it is told")
        assert made.read(STREAM, Health.RTP).other == 1
        told = slots_told(made)
        made.end(STREAM)
        wire.send(one)
        assert wire.receive(2) == [one] * 2
        assert slots_told(made) == told > 0
        count.close()
        filters.close()


@pytest.mark.parametrize("more", [4, 12])
def test_a_long_header_is_told_as_a_plain_one_is(wire: Wire, more: int) -> None:
    """RTP with so many sources: what it bears is found behind them."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    with StreamTap() as made:
        filters = EbpfFilters(DescriptorStore(), None, made)
        filters.change([(CAPTURE, WANTED[0])], ())
        made.begin(STREAM, Health.AUTO)
        made.tell(STREAM, CAPTURE, WANTED[0])
        count = opened(filters, wire, CAPTURE)
        first = bytes([0x80 | more])
        payloads = [first + rtp(at, kind=33, payload=bytes(4 * more) + ts(VIDEO, at))[1:] for at in range(10)]
        sent(wire, [each for at, each in enumerate(payloads) if at != 8])
        wait_until(lambda: made.read(STREAM, Health.AUTO).packets == 9, "all were told")
        assert made.read(STREAM, Health.AUTO).kind == "rtp+ts"
        count.close()
        filters.close()


@pytest.mark.parametrize("datagrams", [1, 40])
def test_heads_of_rtp_take_two_slots_each(wire: Wire, monkeypatch: pytest.MonkeyPatch, datagrams: int) -> None:
    """Where the header goes on, and in super-frames, which fill a ring that nobody reads to its end."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    analyse, may_read, processors = filter_tap._analyse, Event(), os.sched_getaffinity(0)
    monkeypatch.setattr(filter_tap, "_analyse", lambda *args: may_read.wait(30) and analyse(*args))
    payload = EXTENDED + rtp(0, payload=bytes(4) + b"media")[1:]
    with StreamTap() as made:
        filters = EbpfFilters(DescriptorStore(), None, made)
        filters.change([(CAPTURE, WANTED[0])], ())
        made.begin(STREAM, Health.RTP)
        made.tell(STREAM, CAPTURE, WANTED[0])
        count = opened(filters, wire, CAPTURE)
        times = made._maps.slots // (20 if datagrams == 1 else 2 * datagrams)
        raw, whole = in_super_frames(wire, payload, datagrams) if datagrams > 1 else (wire.sender, framed(payload))
        try:
            os.sched_setaffinity(0, {min(processors)})
            for _ in range(times):
                raw.send(whole)
        finally:
            os.sched_setaffinity(0, processors)
            may_read.set()
        wait_until(lambda: made.read(STREAM, Health.RTP).packets == times * datagrams, "all were told")
        raw.close()
        count.close()
        filters.close()


def test_a_filter_that_could_not_be_attached_is_tried_again(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next change of what is watched attaches it, so that the stream is told of."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    with StreamTap() as made:
        filters = EbpfFilters(DescriptorStore(), None, made)
        filters.change([(CAPTURE, WANTED[0])], ())
        count = opened(filters, wire, CAPTURE)
        made.begin(STREAM, Health.RTP)
        made.tell(STREAM, CAPTURE, WANTED[0])
        with monkeypatch.context() as short:
            short.setattr(filters, "_attach", Mock(side_effect=OSError(errno.ENOMEM, "")))
            filters.show_streams()
        filters.show_streams()
        sent(wire, [b"\x80" + rtp(0)[1:]])
        wait_until(lambda: made.read(STREAM, Health.RTP).packets == 1, "it is told")
        count.close()
        filters.close()


class ShortOfMemory(StreamTap):
    """A tap whose maps take so many more flows."""

    room = 0

    def tell(self, slot: int, capture: int, flow: Flow) -> None:
        if self.room <= 0:
            raise OSError(errno.ENOMEM, "")
        self.room -= 1
        super().tell(slot, capture, flow)


def test_a_stream_that_cannot_be_told_leaves_nothing_behind(wire: Wire) -> None:
    """Its maps are let go of: nothing is to use them any more, and the next attempt is made with others."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    source = Input("b0", GROUP, 5000, sources=tuple(map(IPv4Address, ("198.18.0.1", "198.18.0.2"))))
    rule = Rule("tv", source, (Output(GROUP, 6000, "b0"),), health=Health.TS)
    watched_rule = PlacedRule(rule, 1, STREAM, (), (), ())
    other = attrs.evolve(watched_rule, rule=attrs.evolve(rule, rule_id="other", health=Health.NONE), slot=STREAM + 1)
    with ShortOfMemory() as tap:
        filters = EbpfFilters(DescriptorStore(), None, tap)
        filters.change([(CAPTURE, WANTED[0])], ())
        count = opened(filters, wire, CAPTURE)
        streams = WatchedStreams(tap, filters, lambda _: CAPTURE)
        tap.room = 1  # for the first source alone
        streams.change((), [watched_rule])
        assert tap.captures == set()
        filters.show_all(everything=True)  # attaches the program again
        assert "memory" in tap.read(STREAM, Health.TS).reason
        tap.room = 3
        streams.change((), [watched_rule])
        assert (tap.captures, tap.read(STREAM, Health.TS).reason) == ({CAPTURE}, "")
        streams.move(CAPTURE, CAPTURE + 1)
        assert "memory" in tap.read(STREAM, Health.TS).reason
        streams.change((), [other])
        filters.show_all(everything=False)
        tap.room = 2
        streams.change((), [watched_rule])
        assert (tap.captures, tap.read(STREAM, Health.TS).reason) == ({CAPTURE}, "")
        count.close()
        filters.close()
