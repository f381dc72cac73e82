"""Suppression of local delivery: the IP stack does not get what rules take, unless somebody here wants it."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from filters import WANTED, Wire, frame, may_load_ebpf, opened
from lab import Lab, Namespace
from mcr.net import local_receivers
from mcr.net.filter.base import Rejected
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.local_receivers import LinkChanges, without_local_receivers, without_others_below_ip
from mcr.process.descriptor_store import DescriptorStore
from mcr_process import PATIENCE

MEMBERSHIP = socket.inet_aton("239.1.1.1") + socket.inet_aton("198.18.0.2")  # struct ip_mreq


def unheard(namespace: Namespace) -> int:
    """Multicast datagrams that the IP stack found no socket for."""
    return namespace.counter("Udp", "IgnoredMulti")


BURST = 50  # of each tick of the kernel's clock, one packet is left to the IP stack


def send_burst(wire: Wire, each: bytes) -> int:
    """Send it often; the capture gets all. Of how many the IP stack found that there was no socket for them."""
    before = unheard(wire.b)
    wire.send(*[each] * BURST)
    assert wire.receive(BURST) == [each] * BURST
    return unheard(wire.b) - before


@pytest.fixture
def suppressing(wire: Wire) -> Iterator[EbpfFilters]:
    """What `WANTED` has is suppressed on b0, once a capture is open."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces), so nothing is suppressed")
    with wire.b.entered():
        made = EbpfFilters(DescriptorStore(), suppress=True)
    made.change([(3, each) for each in WANTED], ())
    wire.b.ip("address add 198.18.0.2/24 dev b0")
    yield made
    made.close()


def suppress(filters: EbpfFilters, wire: Wire) -> None:
    """As far as local receivers allow."""
    assert filters.suppressor
    assert filters.suppressor.is_due()
    with wire.b.entered():
        paused = filters.suppressor.pause()
        assert paused is not None
        filters.suppressor.suppress_on(without_local_receivers(paused))


def begin(filters: EbpfFilters, wire: Wire) -> Rejected:
    """Open the capture, and suppress."""
    rejected = opened(filters, wire)
    suppress(filters, wire)
    assert filters.suppressor
    if filters.suppressor._useless:
        rejected.close()
        pytest.skip("this kernel has no tcx, so nothing is suppressed")
    assert filters.suppressor._links
    return rejected


def join(namespace: Namespace) -> socket.socket:
    """A socket without a port: a membership, and nobody who listens."""
    with namespace.entered():
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, MEMBERSHIP)
    return member


def test_the_ip_stack_does_not_get_what_is_wanted_unless_a_socket_listens(suppressing: EbpfFilters, wire: Wire) -> None:
    with join(wire.b) as listener, join(wire.b):
        rejected = begin(suppressing, wire)
        assert send_burst(wire, frame()) < BURST // 2
        assert send_burst(wire, frame(port=5002)) < BURST // 2
        before = unheard(wire.b)
        wire.send(*[frame(port=5001)] * BURST, frame())  # no rule takes these but the last, which comes behind them
        assert wire.receive(1) == [frame()]
        assert unheard(wire.b) - before in (BURST, BURST + 1)
        listener.bind(("", 5000))
        listener.settimeout(PATIENCE)
        assert send_burst(wire, frame()) == 0
        assert [listener.recv(100) for _ in range(BURST)] == [b"239.1.1.1:5000"] * BURST
        assert suppressing.suppressor
        suppressing.suppressor.forget(3)
        assert send_burst(wire, frame(port=5002)) == BURST
        rejected.close()


@pytest.mark.parametrize("kind", ["bound to the group", "connected to the sender", "of both families", "by interface"])
def test_every_kind_of_udp_socket_gets_what_is_suppressed(suppressing: EbpfFilters, wire: Wire, kind: str) -> None:
    with wire.b.entered():
        family = socket.AF_INET6 if kind == "of both families" else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_DGRAM)
    with listener, join(wire.b):
        if kind == "by interface":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"b0")
        if kind == "of both families":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", 5000))
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, MEMBERSHIP)  # they take their own only
        else:
            listener.bind(("" if kind == "by interface" else "239.1.1.1", 5000))
        if kind == "connected to the sender":
            listener.connect(("198.18.0.1", 4000))
        listener.settimeout(PATIENCE)
        rejected = begin(suppressing, wire)
        assert send_burst(wire, frame()) == 0
        assert [listener.recv(100) for _ in range(BURST)] == [b"239.1.1.1:5000"] * BURST
        rejected.close()


def test_what_cannot_be_known_is_not_suppressed_and_looked_for_again(suppressing: EbpfFilters, wire: Wire) -> None:
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    wire.b.ip("link set b0 alias other")
    assert suppressing.suppressor.is_due()
    suppressing.suppressor.pause()
    suppressing.suppressor.suppress_on(None)
    with join(wire.b):
        assert send_burst(wire, frame()) == BURST
        suppress(suppressing, wire)
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


@pytest.mark.parametrize("is_free", [True, False])
def test_what_has_changed_while_it_was_looked_at_is_looked_at_again(
    suppressing: EbpfFilters, wire: Wire, *, is_free: bool
) -> None:
    """An interface that was made again was seen as it went: it is neither suppressed nor said to be a bridge's."""
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    wire.b.ip("link set b0 alias other")
    assert suppressing.suppressor.is_due()
    asked = suppressing.suppressor.pause()
    wire.b.ip("link set b0 alias another")
    with wire.b.entered():
        suppressing.suppressor.suppress_on(asked if is_free else frozenset())
    assert not suppressing.suppressor._links
    assert not suppressing.suppressor._told
    suppress(suppressing, wire)
    assert suppressing.suppressor._links
    rejected.close()


def test_what_changes_while_others_are_suppressed_is_not_said_to_be_a_bridges(
    suppressing: EbpfFilters, wire: Wire
) -> None:
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    with wire.b.entered():
        index = socket.if_nametoindex("b0")
        suppressing.suppressor.add(4, index, is_ethernet=True)
        asked = suppressing.suppressor.pause()
        assert asked == frozenset({index})
        suppressing.suppressor._link(3, index)
        del suppressing.suppressor._asked[3]
        wire.b.ip("link set b0 alias another")
        suppressing.suppressor.suppress_on(frozenset())
    assert not suppressing.suppressor._told
    assert suppressing.suppressor.is_stale
    suppressing.suppressor.forget(4)
    rejected.close()


def test_who_takes_packets_below_ip_gets_what_is_suppressed(suppressing: EbpfFilters, wire: Wire) -> None:
    """As a packet socket for one protocol does, which stands behind the program."""
    with wire.b.entered():
        behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with behind, join(wire.b):
        behind.bind(("b0", 0x0800))
        behind.settimeout(PATIENCE)
        rejected = begin(suppressing, wire)
        assert send_burst(wire, frame()) < BURST // 2
        assert [behind.recv(2000) for _ in range(BURST)] == [frame()] * BURST
        rejected.close()


def test_a_port_of_a_bridge_is_not_suppressed_and_suppressed_again_when_it_is_none(
    suppressing: EbpfFilters, wire: Wire
) -> None:
    """The bridge's own sockets and routes are not to be seen from its port."""
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    assert not suppressing.suppressor.is_due()
    wire.b.ip("link add br0 up type bridge mcast_snooping 0")
    wire.b.ip("link set b0 master br0")
    wire.b.ip("address add 198.18.0.2/24 dev br0")
    wire.b.ip("address del 198.18.0.2/24 dev b0")
    with join(wire.b) as member:
        suppress(suppressing, wire)
        assert send_burst(wire, frame()) == BURST
        del member
    wire.b.ip("link delete br0")
    wire.b.ip("address add 198.18.0.2/24 dev b0")
    with join(wire.b):
        suppress(suppressing, wire)
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


def test_what_multicast_routing_may_route_is_not_suppressed(suppressing: EbpfFilters, wire: Wire) -> None:
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    with wire.b.entered():
        routing = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    with routing, join(wire.b):
        routing.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        vif = struct.pack("HBBI4s4s", 0, 0, 1, 0, bytes([198, 18, 0, 2]), bytes(4))
        routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        suppress(suppressing, wire)
        assert send_burst(wire, frame()) == BURST
    suppress(suppressing, wire)
    with join(wire.b):
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


def test_an_interface_that_is_gone_is_not_suppressed(suppressing: EbpfFilters, wire: Wire) -> None:
    assert suppressing.suppressor
    rejected = begin(suppressing, wire)
    wire.b.ip("link delete b0")
    assert suppressing.suppressor.is_due()
    gone = suppressing.suppressor.pause()
    assert gone is not None
    with wire.b.entered():
        assert without_local_receivers(gone) == frozenset()
    suppressing.suppressor.suppress_on(frozenset())
    rejected.close()


def test_who_takes_packets_below_ip_is_seen(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices on top of an interface, in whatever namespace, packet sockets, and tc."""
    programs = [1]  # one is ours
    monkeypatch.setattr(local_receivers, "lib", SimpleNamespace(mcr_bpf_count_ingress=lambda _interface: programs[0]))
    with wire.b.entered():
        index = socket.if_nametoindex("b0")

        def is_sole() -> bool:
            return bool(without_others_below_ip([index]))

        assert is_sole()
        for kind in ("macvlan mode bridge", "macvlan mode source", "macvlan mode passthru nopromisc"):
            inside = f"/proc/{os.getpid()}/fd/{wire.a.fd}"
            wire.b.ip(f"link add link b0 name above0 netns {inside} type {kind}")
            assert is_sole()
            wire.a.ip("link set above0 up")
            assert not is_sole()
            wire.a.ip("link delete above0")
            assert is_sole()
        bound = (0x0800, ""), (0x0800, "b0"), (0x86DD, "b0"), (0x0800, "lo"), (0x0003, "b0"), (0x0806, "b0")
        for protocol, interface in bound:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol)) as packets:
                if interface:
                    packets.bind((interface, protocol))
                assert is_sole() == (interface == "lo" or protocol not in (0x0800, 0x86DD))
        programs[0] = 2
        assert not is_sole()
        programs[0] = 1
        wire.b.run(["tc", "qdisc", "add", "dev", "b0", "clsact"])
        assert not is_sole()
        wire.b.run(["tc", "qdisc", "delete", "dev", "b0", "clsact"])
        assert is_sole()


def test_more_changes_than_can_be_heard_are_a_change(lab: Lab) -> None:
    namespace = lab.namespace("busy")
    with namespace.entered():
        changes = LinkChanges()
    changes._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    while changes.heard():
        pass
    for up in ("up", "down") * 10:
        namespace.ip(f"link set lo {up}")
    assert changes._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENOBUFS
    assert changes.heard()
    while changes.heard():
        pass
    changes.close()


MRT_INIT, MRT_ADD_VIF = 200, 202  # <linux/mroute.h>
