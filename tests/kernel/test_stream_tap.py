"""What the capture filter tells of transport streams: in brief, where that says as much as all of it."""

import random
from collections.abc import Iterator

import pytest

from filters import WANTED, Wire, frame, may_load_ebpf, opened
from mcr._native import lib
from mcr.model.health import Health
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.filter.tap import StreamTap
from mcr.process.descriptor_store import DescriptorStore
from mcr_process import wait_until
from streams import PMT, VIDEO, Television, Watched, pmt, rtp, ts

CAPTURE, STREAM = 3, 7
EXTENDED = b"\x90"  # the first byte of RTP with an extension, of the four bytes that follow


@pytest.fixture
def tap(wire: Wire) -> Iterator[StreamTap]:
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces)")
    with StreamTap() as made:
        filters = EbpfFilters(DescriptorStore(), None, made)
        filters.change([(CAPTURE, WANTED[0])], ())
        made.begin(STREAM, Health.TS)
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


def sent(wire: Wire, payloads: list[bytes]) -> None:
    empty = frame()[:-14]
    for each in payloads:
        size = len(each) + 8
        wire.send(empty[:16] + (20 + size).to_bytes(2) + empty[18:38] + size.to_bytes(2) + empty[40:42] + each)


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
    assert (told.lost, told.unseen) == (whole.missing if not header else 0, 0)
    assert told.ts.pat_age is not None
    assert told.ts.pmt_age is not None
