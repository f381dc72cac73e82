"""Reads memberships and capture sockets from /proc, in the network namespace of the thread that reads."""

import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain
from pathlib import Path

import attrs

from mcr.errors import SystemFault, errno_of
from mcr.model.flow import IPV4, Address
from mcr.net.machine import read_descriptors

# /proc/net would be that of the process, which need not be the thread's.
_IGMP = Path("/proc/thread-self/net/igmp")
_MCFILTER = Path("/proc/thread-self/net/mcfilter")
_PACKET = Path("/proc/thread-self/net/packet")
_IGMP6 = Path("/proc/thread-self/net/igmp6")
_MCFILTER6 = Path("/proc/thread-self/net/mcfilter6")
_IPV6_DIGITS = 32
_UDP = Path("/proc/thread-self/net/udp")
_UDP6 = Path("/proc/thread-self/net/udp6")
_INDEX, _INODE = 4, 8  # columns of /proc/net/packet
_LOCAL, _UDP_INODE = 1, 9  # of /proc/net/udp


@attrs.frozen
class Joined:
    """The groups that are joined on an interface. `version`: of IGMP, as the kernel writes it: V1, V2 or V3."""

    index: int
    interface: str
    version: str
    groups: tuple[IPv4Address, ...]


def joined_groups() -> frozenset[tuple[int, Address]]:
    """Interface index and group of every membership of this machine.

    Raises:
        SystemFault: it can't be read.
    """
    of_ipv4 = ((each.index, group) for each in parse_igmp(_read(_IGMP)) for group in each.groups)
    return frozenset(chain[tuple[int, Address]](of_ipv4, joined_groups6()))


def joined_groups6() -> frozenset[tuple[int, Address]]:
    """Those of IPv6 alone.

    Raises:
        SystemFault: it can't be read.
    """
    return frozenset(parse_igmp6(_read_if_there(_IGMP6)))


def asked_sources(version: int = IPV4) -> dict[int, frozenset[tuple[Address, Address]]]:
    """Group and source of what sockets of this machine ask for from one source, by interface index. `version`: of IP.

    What the kernel shows of an interface is complete. It may show nothing of one where something is asked for.

    Raises:
        SystemFault: it can't be read.
    """
    return parse_mcfilter(_read(_MCFILTER) if version == IPV4 else _read_if_there(_MCFILTER6))


def parse_mcfilter(text: str) -> dict[int, frozenset[tuple[Address, Address]]]:
    """Read /proc/net/mcfilter, or mcfilter6: a line for each source that is asked for, or kept out.

    It begins at the first interface whose newest group has sources, and is complete from there on: of those before it
    there is no line, whatever their other groups have (Linux 6.18, net/ipv4/igmp.c, igmp_mcf_get_first).
    """
    found: defaultdict[int, set[tuple[Address, Address]]] = defaultdict(set)
    for line in text.splitlines():
        index, _, group, source, included, *_ = line.split()
        if not index.isdecimal():  # a heading
            continue
        those = found[int(index)]
        if int(included):
            those.add((_address(group), _address(source)))
    return {index: frozenset(those) for index, those in found.items()}


def _address(digits: str) -> Address:
    return IPv6Address(bytes.fromhex(digits)) if len(digits) == _IPV6_DIGITS else IPv4Address(int(digits, 16))


def parse_igmp(text: str) -> Iterator[Joined]:
    """Read /proc/net/igmp: a line per interface, then an indented one for each group."""
    for part in re.split(r"\n(?=\S)", text.rstrip())[1:]:
        head, *lines = part.splitlines()
        index, name, *_, version = head.split()
        # The four bytes of the address, printed as if they were a number of this machine.
        groups = (IPv4Address(struct.pack("=I", int(line.split()[0], 16))) for line in lines)
        yield Joined(int(index), name.rstrip(":"), version, tuple(groups))


def parse_igmp6(text: str) -> Iterator[tuple[int, IPv6Address]]:
    """Read /proc/net/igmp6: interface index and group, a line for each."""
    for line in text.splitlines():
        index, _, group, *_ = line.split()
        yield int(index), IPv6Address(bytes.fromhex(group))


def igmp_version(index: int) -> str:
    """What the kernel speaks on an interface, as in `Joined`; empty: there is none of this index.

    Raises:
        OSError: it can't be read.
    """
    with _IGMP.open() as lines:
        heads = (line.split() for line in lines if line[0].isdecimal())
        return next((words[-1] for words in heads if words[0] == str(index)), "")


def captured_interfaces() -> frozenset[int]:
    """Indices of the interfaces that capture sockets of this process are bound to.

    Raises:
        SystemFault: it can't be read.
    """
    return frozenset(parse_packet(_read(_PACKET), _socket_inodes()))


def parse_packet(text: str, inodes: Iterable[int]) -> Iterator[int]:
    """Read /proc/net/packet for these sockets. One whose interface has gone is bound to none (-1)."""
    ours = set(inodes)
    for line in text.splitlines()[1:]:
        words = line.split()
        if int(words[_INODE]) in ours and int(words[_INDEX]) > 0:
            yield int(words[_INDEX])


def udp_listeners() -> frozenset[tuple[Address, int]]:
    """Address and port of every UDP socket of another process; address 0.0.0.0, or ::, takes any.

    Raises:
        SystemFault: it can't be read.
    """
    ours = frozenset(_socket_inodes())
    return frozenset((*parse_udp(_read(_UDP), ours), *parse_udp(_read_if_there(_UDP6), ours)))


def parse_udp(text: str, ours: Iterable[int]) -> Iterator[tuple[Address, int]]:
    """Read /proc/net/udp or /proc/net/udp6, without these sockets."""
    own = set(ours)
    for line in text.splitlines()[1:]:
        words = line.split()
        if int(words[_UDP_INODE]) not in own:
            address, _, port = words[_LOCAL].partition(":")
            # Words of the address, printed as if they were numbers of this machine.
            words_of_it = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
            yield ip_address(struct.pack(f"={len(address) // 8}I", *words_of_it)), int(port, 16)


def _socket_inodes() -> Iterator[int]:
    for target in read_descriptors():
        if target.startswith("socket:["):
            yield int(target[len("socket:[") : -1])


def _read_if_there(file: Path) -> str:
    """Empty without IPv6."""
    return _read(file) if file.exists() else ""


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise SystemFault(f"Cannot read {file}", errno_of(error)) from None
