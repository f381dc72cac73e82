"""Packets as the traffic generator sends them."""

from ipaddress import IPv4Address
from typing import Any

from scapy.packet import Packet

import trafficgen.payload as payloads
from trafficgen.frame import Frame, multicast_template

LOOPBACK = IPv4Address("127.0.0.1")
GROUP = IPv4Address("239.129.1.1")  # its MAC address is that of 239.1.1.1: only 23 bits of a group are in it
NAME = "239.129.1.1:5001"


def template(**options: Any) -> Packet:
    return multicast_template(GROUP, 5001, source=IPv4Address("198.18.1.1"), source_mac="02:00:00:00:00:01", **options)


def datagram(sequence: int, *, flow: str = "a", size: int = 100, due_ns: int = 0) -> bytes:
    frame = Frame.build(template(), size)
    buffer = bytearray(frame.data)
    frame.stamp_into(buffer, 0, payloads.flow_id(flow), sequence, due_ns)
    return bytes(buffer[frame.payload_offset :])
