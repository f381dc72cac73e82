"""pcapng, as an independent reader sees it: names, times, directions, comments, counts of what is missing."""

import io
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgReader

from mcr.tap.pcapng import ETHERNET, INBOUND, OUTBOUND, RAW_IP, PcapngWriter

TIME = 1_795_785_105_218_404_761


def written(*packets: tuple[int, int, bytes, int, str]) -> io.BytesIO:
    file = io.BytesIO()
    writer = PcapngWriter(file, "mcrctl 0", "rule tv")
    writer.interface("in0", ETHERNET)
    writer.interface("a longer name", RAW_IP)
    for each in packets:
        writer.packet(*each)
    file.seek(0)
    return file


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        yield kind, data[at + 8 : at + length - 4]
        at += length


def read(file: io.BytesIO) -> list[Any]:
    """All packets."""
    with PcapNgReader(file) as reader:
        return [*reader]


def test_a_packet_has_its_interface_time_direction_and_comment() -> None:
    frame = bytes(Ether(dst="01:00:5e:01:01:01") / IP(dst="239.1.1.1") / UDP(dport=5000) / Raw(b"1234567"))
    packets = [(0, TIME, frame, INBOUND, "taken"), (1, TIME + 5, frame[14:], OUTBOUND, "dropped: checksum")]
    for (_, time, data, direction, comment), name, found in zip(
        packets, ("in0", "a longer name"), read(written(*packets)), strict=True
    ):
        assert bytes(found) == data
        assert found.sniffed_on == name
        assert int(found.time * 10**9) == time
        assert found.direction == direction
        assert found.comment == comment.encode()
        assert found[UDP].dport == 5000


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2**63), st.binary(max_size=99), st.just(1), st.text())))
def test_blocks_are_whole_whatever_is_written(packets: list[tuple[int, int, bytes, int, str]]) -> None:
    packets = [(*each[:4], each[4].encode(errors="replace").decode()) for each in packets]
    found = [*blocks(written(*packets).getvalue())]
    assert [kind for kind, _ in found] == [0x0A0D0D0A, 1, 1, *[6] * len(packets)]
    for (interface, time, data, _, comment), (_, body) in zip(packets, found[3:], strict=True):
        assert struct.unpack_from("<IIIII", body) == (interface, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
        assert body[20 : 20 + len(data)] == data
        assert comment.encode() in body


def test_statistics_say_what_is_missing() -> None:
    file = io.BytesIO()
    PcapngWriter(file, "mcrctl 0", "").statistics(1, TIME, 1000, 7)
    (_, (kind, body)) = blocks(file.getvalue())
    assert kind == 5
    assert body[12:] == struct.pack("<HHQHHQHH", 4, 8, 1000, 5, 8, 7, 0, 0)
    assert struct.unpack_from("<III", body) == (1, TIME >> 32, TIME & 0xFFFFFFFF)
