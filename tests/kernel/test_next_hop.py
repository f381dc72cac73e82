"""The kernel asks for neighbours when told to, and entries that others have set stay as they were."""

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from ipv6_addresses import wait_for_address
from lab import Lab, Namespace
from mcr.net.hops import NextHop, find_hops
from mcr.net.next_hop import use_neighbours

HOST = IPv4Address("198.18.0.7")
MAC = "02:00:00:00:00:07"


@pytest.fixture
def inside() -> Iterator[Namespace]:
    """Where a0 leads to a1, at which nobody answers."""
    with Lab() as lab:
        made = lab.namespace("inside")
        made.ip("link add a0 type veth peer name a1")
        made.bring_up("a1", "a0")
        made.ip("address add 198.18.0.1/24 dev a0")
        with made.entered():
            yield made


def entry(inside: Namespace) -> str:
    return inside.ip(f"neigh show {HOST} dev a0 nud all").strip()


def test_a_host_without_an_entry_is_asked_for(inside: Namespace) -> None:
    use_neighbours([(socket.if_nametoindex("a0"), HOST)])
    assert "INCOMPLETE" in entry(inside)


def test_a_refusal_does_not_stop_those_behind_it(inside: Namespace) -> None:
    inside.ip("link set a0 mtu 1000")  # less than IPv6 takes
    index, refused = socket.if_nametoindex("a0"), IPv6Address("2001:db8::7")
    assert use_neighbours([(index, refused), (index, HOST)]) == {(index, refused): errno.EINVAL, (index, HOST): 0}
    assert "INCOMPLETE" in entry(inside)


@pytest.mark.parametrize(
    ("was_set", "stays"),
    [
        ("nud permanent", "PERMANENT"),
        ("nud noarp", "NOARP"),
        ("nud stale extern_learn", "extern_learn"),
        ("nud stale managed", "managed"),
    ],
)
def test_what_was_set_for_a_host_stays(inside: Namespace, was_set: str, stays: str) -> None:
    inside.ip(f"neigh replace {HOST} lladdr {MAC} dev a0 {was_set}")
    use_neighbours([(socket.if_nametoindex("a0"), HOST)])
    assert stays in entry(inside)


def test_how_ipv6_gets_to_hosts(inside: Namespace) -> None:
    inside.sysctl("net.ipv6.conf.a0.disable_ipv6", "0")
    inside.ip(
        "address add 2001:db8::1/64 dev a0 nodad",
        "route add 2001:db8:1::/64 via 2001:db8::7 dev a0",
        "route add blackhole 2001:db8:2::/64",
        "route add 2001:db8:3::/64 via 2001:db8::7 encap ip6 id 5 dst 2001:db8::9 dev a0",
    )
    wait_for_address(inside, "2001:db8::1")
    ways = {
        "2001:db8::7": NextHop(),
        "fe80::7": NextHop(),
        "2001:db8:1::7": NextHop(IPv6Address("2001:db8::7")),
        "2001:db8:9::7": None,
    }
    found = find_hops(socket.if_nametoindex("a0"), [*map(IPv6Address, ways)], IPv6Address("2001:db8::1"))
    assert dict(zip(ways, found, strict=True)) == ways
    others = [IPv6Address(each) for each in ("2001:db8::1", "2001:db8:3::7", "2001:db8:2::7")]
    own, tunnelled, none = find_hops(socket.if_nametoindex("a0"), others)
    assert (own, tunnelled) == (NextHop(plain=False), NextHop(IPv6Address("2001:db8::7"), plain=False))
    assert none is None
