"""A frame that is built once, by scapy, and stamped anew for every packet."""

import zlib
from ipaddress import IPv4Address

import attrs
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

import trafficgen.payload as payloads
from mcr.errors import UsageError


def multicast_template(
    group: IPv4Address,
    port: int,
    *,
    source: IPv4Address,
    source_mac: str,
    source_port: int = 5000,
    vlan: int | None = None,
    ttl: int = 16,
    ip_id: int = 1,
) -> Packet:
    """Return the headers of a datagram to a group, for scapy to build. Change any field before you send it.

    A UDP checksum left at None is kept right for every packet; one that is set stays as set (0: none).
    """
    octets = group.packed
    group_mac = f"01:00:5e:{octets[1] & 0x7F:02x}:{octets[2]:02x}:{octets[3]:02x}"  # RFC 1112, 6.4
    link = Ether(src=source_mac, dst=group_mac)
    if vlan is not None:
        link /= Dot1Q(vlan=vlan)
    return link / IP(src=str(source), dst=str(group), ttl=ttl, id=ip_id) / UDP(sport=source_port, dport=port)


@attrs.frozen
class Frame:
    """The bytes of a frame, and where in them the stamp goes."""

    data: bytes
    payload_offset: int
    payload_size: int
    filler_crc: int
    checksum_base: int | None
    """Sum of what the UDP checksum covers besides the stamp, modulo 65535; None: leave the checksum alone."""

    @classmethod
    def build(cls, template: Packet, size: int) -> "Frame":
        """Build a frame.

        Args:
            template: the headers. The payload goes after the last of them (in the place of `Raw`, if there is
                one), and before `Padding`, scapy's layer for bytes after the datagram.
            size: bytes of payload.

        Raises:
            UsageError: the payload cannot hold a stamp.
        """
        if not payloads.MIN_SIZE <= size <= payloads.MAX_SIZE:
            raise UsageError(
                f"Invalid payload size: {size}",
                f"{payloads.MIN_SIZE} to {payloads.MAX_SIZE} bytes; the stamp is first",
            )
        filler = payloads.filler(size)
        filler_crc = zlib.crc32(filler)
        stamp = payloads.header(size, 0, 0, 0, filler_crc)
        packet = _with_payload(template, stamp + filler)
        data = bytes(packet)
        offset = data.rindex(stamp)
        base = None
        if UDP in template and template[UDP].chksum is None:
            checksum = int.from_bytes(data[offset - 2 : offset])
            base = (0xFFFF - checksum - int.from_bytes(stamp)) % 0xFFFF
        return cls(data, offset, size, filler_crc, base)

    def stamp_into(self, buffer: bytearray, start: int, flow: int, sequence: int, due_ns: int) -> None:
        """Make the copy of this frame at `start` in a buffer into packet `sequence` of a flow, due then."""
        stamp = payloads.header(self.payload_size, flow, sequence, due_ns, self.filler_crc)
        offset = start + self.payload_offset
        buffer[offset : offset + payloads.MIN_SIZE] = stamp
        if self.checksum_base is not None:
            # A ones' complement sum of 16-bit words is the number they spell modulo 65535 (65536 leaves 1).
            total = (self.checksum_base + int.from_bytes(stamp)) % 0xFFFF
            buffer[offset - 2 : offset] = (0xFFFF - total).to_bytes(2)


def _with_payload(template: Packet, payload: bytes) -> Packet:
    packet = template.copy()
    padding = packet.getlayer(Padding)
    if Raw in packet:
        packet[Raw].underlayer.remove_payload()
    packet /= Raw(payload)
    return packet / Padding(padding.load) if padding is not None else packet
