"""Group memberships, on the loopback interface of a namespace where nobody else joins groups."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lab import Lab
from mcr.errors import SystemFault
from mcr.model.flow import Address
from mcr.net.interfaces import Interface, find_interface
from mcr.net.membership import Memberships
from mcr.net.procfs import asked_sources
from mcr.process.descriptor_store import DescriptorStore

GROUPS = [IPv4Address(f"239.77.1.{number}") for number in range(1, 31)]  # more than one socket holds
LOOPBACK = Interface("lo", socket.if_nametoindex("lo"), 65_536, None)


@pytest.fixture
def memberships(lab: Lab) -> Iterator[Memberships]:
    with lab.namespace("alone").entered():
        made = Memberships(DescriptorStore())
        yield made
        made.close()
        assert joined() == set()


def joined() -> set[IPv4Address]:
    """Of these groups, those that this machine is a member of on the loopback."""
    names = {socket.htonl(int(group)): group for group in GROUPS}
    words = Path("/proc/thread-self/net/igmp").read_text().split()
    return {group for number, group in names.items() if f"{number:08X}" in words}


def test_groups_are_joined_anew_on_an_interface_that_was_made_again(memberships: Memberships) -> None:
    """Its index may be the same: the kernel's memberships are gone, and the sockets still say that they have them."""
    memberships.join_all([*GROUPS, GROUPS[0]], LOOPBACK)
    memberships.move(LOOPBACK)
    assert joined() == set(GROUPS)
    memberships.leave(GROUPS[0], LOOPBACK)
    assert joined() == set(GROUPS)
    for group in GROUPS:
        memberships.leave(group, LOOPBACK)
    assert joined() == set()


def test_of_groups_that_are_joined_together_all_are_or_none(memberships: Memberships) -> None:
    """What others have asked for stays, and sockets that were opened meanwhile are used."""
    memberships.join_all(GROUPS[:2], LOOPBACK)
    no_group = IPv4Address("198.18.0.1")
    with pytest.raises(SystemFault, match=r"Cannot join 198\.18\.0\.1 on lo"):
        memberships.join_all([*GROUPS[:25], no_group, *GROUPS[25:]], LOOPBACK)
    assert (joined(), memberships.count("lo")) == ({*GROUPS[:2]}, 2)
    memberships.join_all(GROUPS, LOOPBACK)
    assert (joined(), memberships.count("lo")) == ({*GROUPS}, 30)
    for group in (*GROUPS[:2], *GROUPS):
        assert group in joined()
        memberships.leave(group, LOOPBACK)


def asked_of(group: IPv4Address) -> set[Address]:
    """Sources that a group is asked for from, on the loopback."""
    return {source for each, source in asked_sources().get(LOOPBACK.index, ()) if each == group}


def test_a_group_is_joined_from_more_sources_than_one_socket_holds(memberships: Memberships) -> None:
    """net.ipv4.igmp_max_msf is 10 by default. Who asks for any source beside them changes nothing for them."""
    sources = {IPv4Address(f"198.18.0.{number}") for number in range(1, 31)}
    for source in sources:
        memberships.join(GROUPS[0], LOOPBACK, source)
    memberships.join(GROUPS[0], LOOPBACK)
    assert (asked_of(GROUPS[0]), memberships.count("lo")) == (sources, 1)
    memberships.move(LOOPBACK)
    assert asked_of(GROUPS[0]) == sources
    memberships.leave(GROUPS[0], LOOPBACK)
    assert joined() == {GROUPS[0]}
    for source in sorted(sources):
        memberships.leave(GROUPS[0], LOOPBACK, source)
        sources.remove(source)
        assert asked_of(GROUPS[0]) == sources


def test_what_was_asked_for_from_a_source_goes_with_its_interface(lab: Lab) -> None:
    """The socket is another interface's, too. The next one may have the index of the one that has gone."""
    inside, memberships = lab.namespace("inside"), Memberships(DescriptorStore())
    sources = [IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2")]
    make = "link add a0 index 77 up type veth peer name a1"
    with inside.entered():
        inside.ip(make, "link add b0 up type veth peer name b1")
        a0, b0 = find_interface("a0"), find_interface("b0")
        for each in (a0, b0):
            for source in sources:
                memberships.join(GROUPS[0], each, source)
        inside.ip("link del a0")
        for source in sources:
            memberships.leave(GROUPS[0], a0, source)
        inside.ip(make)
        for source in sources:
            memberships.join(GROUPS[0], find_interface("a0"), source)
        asked = frozenset((GROUPS[0], source) for source in sources)
        assert asked_sources() == {each.index: asked for each in (a0, b0)}
        memberships.close()


def test_what_is_asked_for_from_sources_is_shown_unless_the_newest_group_of_the_interface_has_none(lab: Lab) -> None:
    """The kernel says nothing of the interface then, if none before it is shown: that is not known, not empty."""
    inside, memberships = lab.namespace("inside"), Memberships(DescriptorStore())
    source = IPv4Address("198.18.0.1")
    with inside.entered():
        inside.ip("link add a0 up type veth peer name a1", "link add b0 up type veth peer name b1")
        a0, b0 = find_interface("a0"), find_interface("b0")
        asked = {each.index: frozenset({(GROUPS[0], source)}) for each in (a0, b0)}
        for each in (a0, b0):
            memberships.join(GROUPS[0], each, source)
        assert asked_sources() == asked
        for each in (a0, b0):
            memberships.join(GROUPS[1], each)
            assert each.index not in asked_sources()
        memberships.join(GROUPS[2], a0, source)
        asked[a0.index] |= {(GROUPS[2], source)}
        assert asked_sources() == asked  # all of it from this one on
        memberships.close()


def test_what_could_not_be_joined_is_joined_later(memberships: Memberships, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in GROUPS:
        memberships.join(group, LOOPBACK)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    with monkeypatch.context() as short:
        short.setattr(memberships, "_join", refuse)
        with pytest.raises(SystemFault, match=r"Cannot join 239\.77\.1"):
            memberships.move(LOOPBACK)
    memberships.leave(GROUPS[0], LOOPBACK)
    memberships.join_missing(LOOPBACK)
    assert joined() == set(GROUPS[1:])
    for group in GROUPS[1:]:
        memberships.leave(group, LOOPBACK)
