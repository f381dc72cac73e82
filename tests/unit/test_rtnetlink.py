"""What the kernel says of the network is understood, and what is known follows what it says."""

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from mcr.net.netlink import drain
from mcr.net.network import Neighbour, Network
from mcr.net.rtnetlink import DUMPS, Known, Lifetimes, parse_link

PORT = 4_711
LINKS, ADDRESSES, NEIGHBOURS = DUMPS
REACHABLE, STALE, INCOMPLETE, FAILED, NOARP = 0x02, 0x04, 0x01, 0x20, 0x40
HOST = IPv4Address("198.18.1.7")


def encoded(message: Any, kind: int, *, port: int = 0, flags: int = 0) -> bytes:
    message["header"]["type"] = kind
    message.encode()
    body = bytes(message.data[16:])
    return struct.pack("IHHII", 16 + len(body), kind, flags, 0, port) + body


def link(index: int, name: str, kind: int = 16, *, family: int = 0, flags: int = 0x11043, port: int = 0) -> bytes:
    message = ifinfmsg()
    message |= {"family": family, "index": index, "flags": flags}
    message["attrs"] = [("IFLA_IFNAME", name)]
    return encoded(message, kind, port=port)


def address(index: int, text: str, kind: int = 20, port: int = 0) -> bytes:
    interface = IPv4Interface(text)
    message = ifaddrmsg()
    message |= {"family": socket.AF_INET, "index": index, "prefixlen": interface.network.prefixlen}
    message["attrs"] = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
    return encoded(message, kind, port=port)


def address6(index: int, text: str, kind: int = 20) -> bytes:
    message = ifaddrmsg()
    message |= {"family": socket.AF_INET6, "index": index, "prefixlen": 64}
    message["attrs"] = [("IFA_ADDRESS", text)]
    return encoded(message, kind)


def neighbour(
    index: int, state: int, kind: int = 28, host: IPv4Address = HOST, port: int = 0, *, mac: str | None = None
) -> bytes:
    message = ndmsg()
    message |= {"family": socket.AF_INET, "ifindex": index, "state": state}
    message["attrs"] = [("NDA_DST", str(host)), *([("NDA_LLADDR", mac)] if mac else [])]
    return encoded(message, kind, port=port)


def done(flags: int = 0) -> bytes:
    return struct.pack("IHHIIi", 20, 3, flags, 0, PORT, 0)


@pytest.fixture
def known() -> Known:
    return Known(PORT)


def test_link_has_its_names_state_and_owner() -> None:
    message = ifinfmsg()
    message |= {"index": 7, "flags": 0x1003 | 0x80}
    message["attrs"] = [
        ("IFLA_IFNAME", "out0"),
        ("IFLA_MTU", 1300),
        ("IFLA_MASTER", 9),
        ("IFLA_CARRIER", 0),
        ("IFLA_CARRIER_UP_COUNT", 3),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
        ("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", "oalt"), ("IFLA_ALT_IFNAME", "other")]}),
    ]
    found = parse_link(encoded(message, 16)[16:])
    assert found is not None
    assert (found.index, found.name, found.altnames) == (7, "out0", ("oalt", "other"))
    assert (found.up, found.carrier, found.running, found.arp) == (True, False, False, False)
    assert found.carrier_ups == 3
    assert (found.mtu, found.master, found.kind) == (1300, 9, "veth")


def test_device_of_a_vlan_tells_whose_frames_it_has() -> None:
    information = {"attrs": [("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", 5)]})]}
    for more, tags in ((), (7, 5)), ((("IFLA_LINK_NETNSID", 0),), None):
        message = ifinfmsg()
        message |= {"index": 8}
        message["attrs"] = [("IFLA_IFNAME", "out0.5"), ("IFLA_LINK", 7), ("IFLA_LINKINFO", information), *more]
        found = parse_link(encoded(message, 16)[16:])
        assert found is not None
        assert found.tags == tags


@pytest.mark.parametrize("length", range(0, 24, 3))
def test_what_is_cut_short_says_nothing_and_harms_nothing(known: Known, length: int) -> None:
    known.heed(link(7, "out0")[:length])
    known.heed(struct.pack("IHHII", 16 + length, 16, 0, 0, 0) + link(7, "out0")[16 : 16 + length])
    assert known.network().links == {}


def test_changes_are_followed(known: Known) -> None:
    known.heed(link(7, "out0") + address(7, "198.18.1.1/24"))
    first = known.network()
    assert first.find("out0") is not None
    assert list(first.own_addresses()) == [IPv4Address("198.18.1.1")]
    known.heed(link(7, "out9") + address(7, "198.18.1.1/24", kind=21))
    second = known.network()
    assert (second.find("out0"), second.links[7].name, second.addresses[7]) == (None, "out9", ())
    assert second.version > first.version
    assert second.routes > first.routes
    assert first.find("out0") is not None  # a value


def test_what_says_nothing_new_makes_no_new_version(known: Known) -> None:
    known.heed(link(7, "out0"))
    before = known.network()
    known.heed(link(7, "out0"))
    assert known.network() is before


def test_port_that_leaves_its_bridge_is_no_link_that_is_gone(known: Known) -> None:
    known.heed(link(7, "out0") + link(7, "out0", kind=17, family=socket.AF_BRIDGE))
    assert 7 in known.network().links


def test_link_that_goes_takes_its_addresses_and_neighbours_along(known: Known) -> None:
    known.heed(link(7, "out0") + address(7, "198.18.1.1/24") + neighbour(7, FAILED) + link(7, "out0", kind=17))
    assert known.network() == Network(version=1, routes=known.network().routes)


def test_neighbour_is_silent_until_it_answers(known: Known) -> None:
    """The kernel asks it again with every packet that is due to it, and forgets it now and then."""

    def silent() -> bool:
        return known.network().neighbours[7, HOST].silent

    known.heed(link(7, "out0") + neighbour(7, INCOMPLETE))
    assert not silent()
    for message in (neighbour(7, FAILED), neighbour(7, INCOMPLETE), neighbour(7, FAILED, kind=29)):
        known.heed(message)
        assert silent()
    known.heed(neighbour(7, INCOMPLETE))
    assert silent()
    known.heed(neighbour(7, REACHABLE))
    assert not silent()
    known.heed(neighbour(7, STALE, kind=29))
    assert known.network().neighbours == {}


def test_a_link_local_address_that_was_away_for_a_moment_is_noticed(known: Known) -> None:
    """MLD speaks from it."""
    known.heed(link(7, "eth0") + address6(7, "fe80::7") + address6(7, "2001:db8::7"))
    before = known.network()
    known.heed(address6(7, "2001:db8::7", 21) + address6(7, "2001:db8::7"))
    assert known.network().lost6 == before.lost6 == {}
    known.heed(address6(7, "fe80::7", 21) + address6(7, "fe80::7"))
    now = known.network()
    assert ({*now.addresses6[7]}, now.lost6) == ({*before.addresses6[7]}, {7: 1})
    known.heed(link(7, "eth0", 17))
    known.heed(address6(8, "fe80::8"))
    assert known.network().lost6 == {}


@pytest.mark.slow
def test_silent_neighbours_that_are_forgotten_do_not_pile_up(known: Known) -> None:
    known.heed(link(7, "out0"))
    came, went = neighbour(7, FAILED), neighbour(7, FAILED, kind=29)
    for each in range(5_000):
        host = struct.pack("!I", 0x0A000000 + each)
        known.heed(came.replace(HOST.packed, host))
        known.heed(went.replace(HOST.packed, host))
    assert len(known.network().neighbours) <= 4_096


@pytest.mark.parametrize("before", [REACHABLE, FAILED])
def test_a_neighbour_that_needs_no_arp_any_more_has_the_mac_that_it_was_given(known: Known, before: int) -> None:
    known.heed(link(7, "out0") + neighbour(7, before, mac="02:00:00:00:00:0a"))
    known.heed(neighbour(7, NOARP, mac="02:00:00:00:00:0b"))
    assert known.network().neighbours == {(7, HOST): Neighbour(NOARP, mac=bytes.fromhex("02000000000b"))}


def test_groups_are_nobody_s_neighbours(known: Known) -> None:
    known.heed(link(7, "out0") + neighbour(7, NOARP, host=IPv4Address("239.1.1.1")))
    assert known.network().neighbours == {}


def test_what_an_answer_does_not_speak_of_is_gone(known: Known) -> None:
    """After more has changed than could be heard."""
    known.heed(link(7, "out0") + link(8, "out1") + address(7, "198.18.1.1/24") + neighbour(7, REACHABLE))
    known.begin(LINKS)
    known.heed(link(7, "out0", port=PORT))
    known.heed(link(9, "new") + link(7, "out0", kind=17))  # changes meanwhile
    known.heed(done())
    assert not known.dumping
    assert set(known.network().links) == {9}
    known.heed(link(7, "out0") + address(7, "198.18.1.1/24") + address(7, "198.18.2.1/24") + neighbour(7, REACHABLE))
    known.begin(ADDRESSES)
    known.heed(address(7, "198.18.2.1/24", port=PORT) + done())
    known.begin(NEIGHBOURS)
    known.heed(done())
    network = known.network()
    assert network.addresses[7] == (IPv4Interface("198.18.2.1/24"),)
    assert network.neighbours == {}


def test_answer_that_was_torn_is_asked_for_again(known: Known) -> None:
    known.heed(link(7, "out0"))
    known.begin(LINKS)
    known.heed(done(flags=0x10))
    assert (known.dumping, known.torn) == (False, True)
    assert 7 in known.network().links


def test_others_answers_end_no_request(known: Known) -> None:
    known.begin(LINKS)
    known.heed(struct.pack("IHHIIi", 20, 3, 0, 0, PORT + 1, 0))
    assert known.dumping


class Overflowing(socket.socket):
    """More came than it can hold."""

    def recv(self, *_: int) -> bytes:
        raise OSError(errno.ENOBUFS, "")


def test_after_missed_messages_an_address_that_lives_longer_is_news() -> None:
    """It may have gone and come back, to something else, in what was missed."""
    lifetimes, told = Lifetimes(), address(1, "198.18.1.1/24")
    assert [lifetimes.are_all(told), lifetimes.are_all(told)] == [False, True]
    with Overflowing(socket.AF_UNIX) as news:
        assert drain(news, lifetimes.are_all, lifetimes.forget)
    assert not lifetimes.are_all(told)
