"""A thinned filter lets in every datagram of some payloads, and none of the others, on a real link."""

import random
import select
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from filters import WANTED, WANTED6, Wire
from mcr.net.filter.cbpf import attach_filter, select_udp
from mcr.net.filter.thinning import thin

COPIES = 3
SHARE = 4
PATIENCE = 0.1  # seconds without a datagram, after which all are there
LONG = bytes(600)
PAYLOADS = {
    "short": [b"%d" % number for number in range(200)],
    "begin": [number.to_bytes(4, "big") + LONG for number in range(200)],
    "little": [bytes(12) + number.to_bytes(4, "little") + LONG for number in range(200)],
    "end": [LONG + number.to_bytes(3, "big") for number in range(200)],
}


def headers(family: int) -> Iterator[Packet]:
    """Of copies that come by different ways."""
    for number in range(COPIES):
        udp = UDP(sport=number, dport=5000)
        if family == 4:
            yield IP(src="198.18.0.1", dst=str(WANTED[0].group), id=number, ttl=9 - number) / udp
        else:
            yield IPv6(src="fd00::1", dst=str(WANTED6[0].group), hlim=9 - number) / udp


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", PAYLOADS)
def test_all_of_some_payloads_come_in(wire: Wire, family: int, kind: str) -> None:
    wanted = WANTED if family == 4 else WANTED6
    attach_filter(wire.capture, thin(select_udp(wanted, 14), 14, SHARE, random.getrandbits(32)))
    ethernet = bytes(Ether(src="02:00:00:00:00:01", dst="01:00:5e:01:01:01", type=0x0800 if family == 4 else 0x86DD))
    come: Counter[bytes] = Counter()
    for header in headers(family):
        # The hash is of payloads alone, and so may checksums be wrong.
        before = {size: bytes(header / Raw(bytes(size)))[:-size] for size in {*map(len, PAYLOADS[kind])}}
        wire.send(*(ethernet + before[len(payload)] + payload for payload in PAYLOADS[kind]))
        while select.select([wire.capture], [], [], PATIENCE)[0]:
            come[wire.capture.recv(2000)[42 if family == 4 else 62 :]] += 1
    assert come.keys() <= {*PAYLOADS[kind]}
    assert {*come.values()} == {COPIES}
    assert len(PAYLOADS[kind]) / SHARE / 2 < len(come) < 2 * len(PAYLOADS[kind]) / SHARE
