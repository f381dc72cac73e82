"""The watch for IGMP queries on a real link, and what it takes for one."""

import errno
import itertools
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio

from lab import Lab, Namespace
from mcr.actors import querier_watch
from mcr.actors.querier_watch import Hearing, Queries, Query, parse_mld_query, parse_query, run_querier_watch
from mcr.net.igmp import query
from trafficgen.interface import open_interface

QUERY = bytes.fromhex("1164ee9b00000000")


def packet(message: bytes, *, source: str = "198.18.0.254", options: bytes = b"") -> bytes:
    """An IP packet to all hosts."""
    size = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(message), 0, 0, 1, 2, 0)
    header += socket.inet_aton(source) + socket.inet_aton("224.0.0.1") + options
    total = sum(struct.unpack(f"!{size // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + message


def frame(message: bytes, **how: object) -> bytes:
    return b"\x01\x00\x5e\x00\x00\x01" + b"\x02\0\0\0\0\x01" + b"\x08\x00" + packet(message, **how)  # type: ignore[arg-type]


QUERIER, ALL = IPv4Address("198.18.0.254"), IPv4Address(0)
GENERAL = Query(QUERIER, ALL, 10.0)


@pytest.mark.parametrize(
    ("message", "query"),
    [
        ("11640000 00000000", Query(QUERIER, ALL, 10.0)),
        ("11000000 00000000", Query(QUERIER, ALL, 10.0)),  # version 1
        ("110a0000 ef010101", Query(QUERIER, IPv4Address("239.1.1.1"), 1.0)),
        ("11640000 00000000 037d0000", Query(QUERIER, ALL, 10.0, 3, 125.0)),  # version 3
        ("11640000 00000000 00000000", Query(QUERIER, ALL, 10.0)),
        ("11890000 00000000 02800000", Query(QUERIER, ALL, 20.0, 2, 128.0)),  # with exponents: 25 << 3, 16 << 3
    ],
)
@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_queries_of_every_version(message: str, query: Query, options: bytes) -> None:
    assert parse_query(packet(checked(bytes.fromhex(message)), options=options)) == query


def test_a_query_that_this_machine_sends_itself_is_none() -> None:
    """It has a TTL of 0: it says nothing of who is on the wire."""
    asked = packet(query(3))
    assert parse_query(asked) == Query(QUERIER, ALL, 0.5)
    assert parse_query(asked[:8] + b"\0" + asked[9:]) is None


@pytest.mark.parametrize(("groups", "seconds"), [(0, 0.5), (500, 0.5), (2_000, 2.0), (10_000, 10.0), (16_384, 10.0)])
def test_answers_to_it_are_spread(groups: int, seconds: float) -> None:
    found = parse_query(packet(query(groups)))
    assert found is not None
    assert found.response == seconds


def checked(message: bytes) -> bytes:
    """With its checksum."""
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]


@pytest.mark.parametrize(
    ("gaps", "query", "interval", "holds"),
    [
        ([], GENERAL, None, 260.0),
        ([31, 125], GENERAL, None, 260.0),  # two come early after a start
        ([31, 125, 125], GENERAL, 125.0, 260.0),
        ([1, 1, 1], GENERAL, 1.0, 12.0),
        ([125, 125, 125, 1, 1, 1], GENERAL, 1.0, 12.0),
        ([1, 1, 1, 3600], GENERAL, None, 260.0),  # it was silent, and came back
        ([], Query(QUERIER, ALL, 10.0, 3, 60.0), 60.0, 190.0),
    ],
)
def test_how_long_a_query_holds_follows_the_querier(
    gaps: list[int], query: Query, interval: float | None, holds: float
) -> None:
    queries = Queries(query, 0.0)
    for time in itertools.accumulate(gaps):
        queries.follow(query, time)
    assert (queries.interval(), queries.holds()) == (interval, holds)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        QUERY[:7],
        QUERY[:7] + b"\x01",  # its checksum is wrong
        bytes(8),
        bytes.fromhex("1600f9fcef010101"),  # a report
    ],
)
def test_what_is_no_query(message: bytes) -> None:
    assert parse_query(packet(message)) is None


LINK_LOCAL = IPv6Address("fe80::7")


@pytest.mark.parametrize(
    ("message", "query"),
    [
        ("82000000 27100000" + 16 * "00", Query(LINK_LOCAL, IPv6Address(0), 10.0)),  # version 1
        ("82000000 03e80000 ff15" + 13 * "00" + "01", Query(LINK_LOCAL, IPv6Address("ff15::1"), 1.0)),
        ("82000000 27100000" + 16 * "00" + "027d0000", Query(LINK_LOCAL, IPv6Address(0), 10.0, 2, 125.0)),
        (
            "82000000 83e80000" + 16 * "00" + "00000000",
            Query(LINK_LOCAL, IPv6Address(0), 40.768),
        ),  # (0x3e8 | 0x1000) << 3
    ],
)
def test_mld_queries_of_every_version(message: str, query: Query) -> None:
    assert parse_mld_query(bytes.fromhex(message), LINK_LOCAL) == query
    assert parse_mld_query(bytes.fromhex(message), IPv6Address("2001:db8::7")) is None
    assert parse_mld_query(bytes.fromhex(message)[:23], LINK_LOCAL) is None
    assert parse_mld_query(b"\x83" + bytes.fromhex(message)[1:], LINK_LOCAL) is None


def test_half_a_header_is_no_query() -> None:
    assert parse_query(packet(QUERY)[:19]) is None


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with Lab() as lab:
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.link(a, "a0", b, "b0", a_address="198.18.0.1/24", b_address="198.18.0.2/24")
        yield a, b


async def test_it_hears_who_asked_where_and_when(
    ends: tuple[Namespace, Namespace], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports and garbage before it are nothing to it."""
    a, b = ends

    def opened() -> socket.socket:
        with b.entered():
            return open_()

    open_ = querier_watch._open
    monkeypatch.setattr(querier_watch, "_open", opened)
    watch = await nursery.start(run_querier_watch)
    with b.entered():
        index = socket.if_nametoindex("b0")
    assert watch.on(index).ago is None
    with a.entered():
        sender = open_interface("a0")
    with sender, trio.fail_after(10):
        for garbage in (b"", QUERY[:3], QUERY[:7] + b"\x01", bytes.fromhex("1600f9fcef010101"), bytes(500)):
            sender.send(frame(garbage))
        while watch.on(index).ago is None:
            sender.send(frame(QUERY))
            await trio.sleep(0.01)
    heard = watch.on(index)
    assert str(heard.querier) == "198.18.0.254"
    assert heard.ago < heard.listening
    assert watch.on(index + 1).ago is None


async def test_without_a_socket_it_says_so_and_hears_nothing(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> socket.socket:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(querier_watch, "_open", refuse)
    watch = await nursery.start(run_querier_watch)
    assert watch.on(1) == Hearing(None)
    assert "cannot listen for IGMP queries (Operation not permitted (os error 1))" in caplog.text
