"""What the filters let in and count, on a real link. Both kinds do the same."""

import errno
import resource
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lab import Lab, Namespace
from mcr.errors import SystemFault
from mcr.model.limits import MAX_RULES
from mcr.net.filter.base import Rejected, Screen, open_screen
from mcr.net.filter.cbpf import REJECT_ALL, Wanted, attach_filter, select_udp
from mcr.net.filter.classic import ClassicScreen
from mcr.net.filter.ebpf import MapScreen
from mcr.net.interfaces import find_interface
from mcr.net.local_receivers import LinkChanges, without_bystanders

WANTED = [Wanted(IPv4Address("239.1.1.1"), 5000), Wanted(IPv4Address("239.1.1.1"), 5002)]
ETH_P_ALL = 0x0003
OPEN = Path("/proc/self/fd")
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
MRT_INIT, MRT_ADD_VIF = 200, 202  # <linux/mroute.h>
MEMBERSHIP = socket.inet_aton("239.1.1.1") + socket.inet_aton("198.18.0.2")  # struct ip_mreq


def may_load_ebpf() -> bool:
    try:
        MapScreen().close()
    except PermissionError:
        return False
    return True


@pytest.fixture(params=[MapScreen, ClassicScreen])
def screen(request: pytest.FixtureRequest) -> Iterator[Screen]:
    if request.param is MapScreen and not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces); the classic filters are tested")
    made: Screen = request.param()
    yield made
    made.close()


def checksum(header: bytes) -> bytes:
    """Of an IP header (RFC 791)."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


def frame(
    group: str = "239.1.1.1",
    port: int = 5000,
    *,
    options: bytes = b"",
    fragment: int = 0,
    proto: int = 17,
    vlan: bytes = b"",
    first: int | None = None,
) -> bytes:
    """An Ethernet frame; its payload tells its destination."""
    payload = f"{group}:{port}".encode()
    ip_size = 20 + len(options)
    ethernet = b"\1\0\x5e\1\1\1" + b"\2\0\0\0\0\1" + vlan + b"\x08\x00"
    first = 0x40 | ip_size // 4 if first is None else first
    total = ip_size + 8 + len(payload)
    ip = struct.pack(
        "!BBHHHBBH4s4s", first, 0, total, 0, fragment, 9, proto, 0, b"\xc6\x12\0\1", IPv4Address(group).packed
    )
    ip = ip[:10] + checksum(ip + options) + ip[12:]
    return ethernet + ip + options + struct.pack("!HHHH", 4000, port, 8 + len(payload), 0) + payload


class Wire:
    """A link with a capture socket at its far end."""

    def __init__(self, lab: Lab) -> None:
        a, self.b = lab.namespace("a"), lab.namespace("b")
        lab.link(a, "a0", self.b, "b0")
        self.sender, self.capture = self._raw(a, "a0"), self._raw(self.b, "b0", deaf=True)
        self.capture.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)

    @staticmethod
    def _raw(namespace: Namespace, interface: str, *, deaf: bool = False) -> socket.socket:
        with namespace.entered():
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        if deaf:
            attach_filter(raw, REJECT_ALL)
        raw.bind((interface, ETH_P_ALL))
        return raw

    def send(self, *frames: bytes) -> None:
        for each in frames:
            self.sender.send(each)

    def receive(self, count: int) -> list[bytes]:
        """So many frames, and no more."""
        self.capture.settimeout(5)
        got = [self.capture.recv(2000) for _ in range(count)]
        self.capture.settimeout(0)
        with pytest.raises(BlockingIOError):
            got.append(self.capture.recv(2000))
        return got


@pytest.fixture
def wire(lab: Lab) -> Iterator[Wire]:
    made = Wire(lab)
    with made.sender, made.capture:
        yield made


def opened(screen: Screen, wire: Wire, capture: int = 3) -> Rejected:
    with wire.b.entered():
        return screen.open(capture, find_interface("b0"), [wire.capture])


def test_only_what_is_wanted_comes_in_and_the_rest_is_counted(screen: Screen, wire: Wire) -> None:
    screen.change([(3, each) for each in WANTED], ())
    rejected = opened(screen, wire)
    strangers = [frame(port=5001), frame("239.1.1.2"), frame("239.1.1.2", 5002), frame("198.18.0.1"), frame(port=80)]
    right = [frame(), frame(port=5002), frame(options=b"\x94\x04\0\0")]
    priority = b"\x81\x00\x60\0"  # of VLAN 0; the kernel takes it out
    wire.send(*strangers, frame(port=5003, vlan=priority), *right, frame(vlan=priority))
    assert wire.receive(len(right) + 1) == [*right, frame()]
    assert rejected.read() == len(strangers) + 1
    rejected.close()


def test_what_is_no_udp_or_of_a_vlan_is_neither_let_in_nor_counted(screen: Screen, wire: Wire) -> None:
    screen.change([(3, each) for each in WANTED], ())
    rejected = opened(screen, wire)
    tagged, tcp, ipv6 = frame(vlan=b"\x81\x00\0\7"), frame(proto=6), b"\1" * 12 + b"\x86\xdd" + bytes(100)
    wire.send(tagged, tcp, ipv6, frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 0
    rejected.close()


def test_what_cannot_be_told_from_its_headers_is_for_the_worker(screen: Screen, wire: Wire) -> None:
    rejected = opened(screen, wire)
    odd = [frame(fragment=0x2000), frame(fragment=0x0010), frame(first=0x43), frame(first=0x65), frame(first=0x35)]
    odd += [frame()[:34], frame()[:36], frame(options=bytes(4))[:40]]  # without ports
    wire.send(*odd, frame(proto=6)[:34])
    assert wire.receive(len(odd)) == odd
    assert rejected.read() == 0
    rejected.close()


def test_a_change_is_in_force_at_once(screen: Screen, wire: Wire) -> None:
    rejected = opened(screen, wire)
    wire.send(frame())
    screen.change([(3, WANTED[0]), (4, WANTED[1])], ())  # the second one is another interface's
    wire.send(frame(), frame(port=5002))
    assert wire.receive(1) == [frame()]
    screen.change([(3, WANTED[1])], [(3, WANTED[0])])
    wire.send(frame(), frame(port=5002))
    assert wire.receive(1) == [frame(port=5002)]
    assert rejected.read() == 3
    rejected.close()


def test_everything_is_shown_on_demand(screen: Screen, wire: Wire) -> None:
    rejected = opened(screen, wire)
    wire.send(frame(port=1))
    screen.show_all(everything=True)
    wire.send(frame(port=2), frame(proto=6))
    assert wire.receive(1) == [frame(port=2)]
    screen.show_all(everything=False)
    wire.send(frame(port=3))
    assert rejected.read() == 2
    rejected.close()


def test_without_a_descriptor_left_a_filter_stays_as_it_was(screen: Screen, wire: Wire) -> None:
    """Changing what is shown is no reason to fail; opening a capture then is, and leaves nothing behind."""
    screen.change([(3, WANTED[0])], ())
    rejected = opened(screen, wire)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len([*OPEN.iterdir()])
    with wire.b.entered():
        b0 = find_interface("b0")
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            screen.show_all(everything=True)
            screen.show_all(everything=False)
            with pytest.raises(SystemFault):
                screen.open(4, b0, [wire.capture])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len([*OPEN.iterdir()]) == before
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    rejected.close()


def test_next_capture_in_a_slot_counts_from_zero(screen: Screen, wire: Wire) -> None:
    first = opened(screen, wire)
    wire.send(frame(), frame())
    assert first.read() == 2
    screen.forget(3)
    first.close()
    attach_filter(wire.capture, REJECT_ALL)
    wire.send(frame())
    second = opened(screen, wire)
    assert second.read() == 0
    wire.send(frame())
    assert second.read() == 1
    second.close()


def test_too_many_rules_for_a_classic_filter_leave_it_to_the_workers(wire: Wire) -> None:
    """Nothing is lost: workers sort out what a filter can't."""
    screen = ClassicScreen()
    many = [Wanted(IPv4Address("239.2.0.0") + i, 5000) for i in range(2000)]
    with pytest.raises(OverflowError):
        select_udp(many)
    screen.change([(3, each) for each in many], ())
    rejected = opened(screen, wire)
    wire.send(frame(), frame("239.2.0.9"))
    assert wire.receive(2) == [frame(), frame("239.2.0.9")]
    screen.change([(3, WANTED[0])], [(3, each) for each in many])
    wire.send(frame("239.2.0.9"), frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 1
    rejected.close()
    screen.close()


def test_map_holds_as_many_rules_as_a_relay(wire: Wire) -> None:
    """Or there is none, and the classic filters take its place."""
    screen = open_screen(absorb=False)
    if not may_load_ebpf():
        assert isinstance(screen, ClassicScreen)
        return
    most = [(3, Wanted(IPv4Address("239.2.0.0") + i, 5000)) for i in range(MAX_RULES)]
    screen.change(most, ())
    with pytest.raises(SystemFault, match="BPF_MAP_UPDATE_ELEM"):
        screen.change([(3, WANTED[0]), (3, WANTED[1])], ())
    screen.change([], most[:1])
    rejected = opened(screen, wire)
    wire.send(frame(), frame("239.2.0.0"), frame("239.2.63.255"))
    assert wire.receive(1) == [frame("239.2.63.255")]
    assert rejected.read() == 2
    rejected.close()
    screen.close()


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
def absorbing(wire: Wire) -> Iterator[MapScreen]:
    """What `WANTED` has is absorbed on b0, once a capture is open."""
    if not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces), so nothing is absorbed")
    with wire.b.entered():
        made = MapScreen(absorb=True)
    made.change([(3, each) for each in WANTED], ())
    wire.b.ip("address add 198.18.0.2/24 dev b0")
    yield made
    made.close()


def absorb(screen: MapScreen, wire: Wire) -> None:
    """As far as bystanders allow."""
    assert screen.absorber
    assert screen.absorber.is_due()
    with wire.b.entered():
        screen.absorber.absorb_on(without_bystanders(screen.absorber.pause()))


def begin(screen: MapScreen, wire: Wire) -> Rejected:
    """Open the capture, and absorb."""
    rejected = opened(screen, wire)
    absorb(screen, wire)
    assert screen.absorber
    if screen.absorber._useless:
        rejected.close()
        pytest.skip("this kernel has no tcx, so nothing is absorbed")
    assert screen.absorber._links
    return rejected


def join(namespace: Namespace) -> socket.socket:
    """A socket without a port: a membership, and nobody who listens."""
    with namespace.entered():
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, MEMBERSHIP)
    return member


def test_the_ip_stack_is_spared_what_is_wanted_unless_a_socket_listens(absorbing: MapScreen, wire: Wire) -> None:
    with join(wire.b) as listener, join(wire.b):
        rejected = begin(absorbing, wire)
        assert send_burst(wire, frame()) < BURST // 2
        assert send_burst(wire, frame(port=5002)) < BURST // 2
        before = unheard(wire.b)
        wire.send(*[frame(port=5001)] * BURST, frame())  # no rule takes these but the last, which comes behind them
        assert wire.receive(1) == [frame()]
        assert unheard(wire.b) - before in (BURST, BURST + 1)
        listener.bind(("", 5000))
        listener.settimeout(5)
        assert send_burst(wire, frame()) == 0
        assert [listener.recv(100) for _ in range(BURST)] == [b"239.1.1.1:5000"] * BURST
        assert absorbing.absorber
        absorbing.absorber.forget(3)
        assert send_burst(wire, frame(port=5002)) == BURST
        rejected.close()


@pytest.mark.parametrize("kind", ["bound to the group", "connected to the sender", "of both families", "by interface"])
def test_every_kind_of_udp_socket_gets_what_is_absorbed(absorbing: MapScreen, wire: Wire, kind: str) -> None:
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
        listener.settimeout(5)
        rejected = begin(absorbing, wire)
        assert send_burst(wire, frame()) == 0
        assert [listener.recv(100) for _ in range(BURST)] == [b"239.1.1.1:5000"] * BURST
        rejected.close()


def test_what_cannot_be_known_is_not_absorbed_and_looked_for_again(absorbing: MapScreen, wire: Wire) -> None:
    assert absorbing.absorber
    rejected = begin(absorbing, wire)
    wire.b.ip("link set b0 alias other")
    assert absorbing.absorber.is_due()
    absorbing.absorber.pause()
    absorbing.absorber.absorb_on(None)
    with join(wire.b):
        assert send_burst(wire, frame()) == BURST
        absorb(absorbing, wire)
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


@pytest.mark.parametrize("is_free", [True, False])
def test_what_has_changed_while_it_was_looked_at_is_looked_at_again(
    absorbing: MapScreen, wire: Wire, *, is_free: bool
) -> None:
    """An interface that was made again was seen as it went: it is neither absorbed from nor said to be a bridge's."""
    assert absorbing.absorber
    rejected = begin(absorbing, wire)
    wire.b.ip("link set b0 alias other")
    assert absorbing.absorber.is_due()
    asked = absorbing.absorber.pause()
    wire.b.ip("link set b0 alias another")
    with wire.b.entered():
        absorbing.absorber.absorb_on(asked if is_free else frozenset())
    assert not absorbing.absorber._links
    assert not absorbing.absorber._told
    absorb(absorbing, wire)
    assert absorbing.absorber._links
    rejected.close()


def test_who_takes_packets_below_ip_gets_what_is_absorbed(absorbing: MapScreen, wire: Wire) -> None:
    """As a packet socket for one protocol does, which stands behind the program."""
    with wire.b.entered():
        behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    with behind, join(wire.b):
        behind.bind(("b0", 0x0800))
        behind.settimeout(5)
        rejected = begin(absorbing, wire)
        assert send_burst(wire, frame()) < BURST // 2
        assert [behind.recv(2000) for _ in range(BURST)] == [frame()] * BURST
        rejected.close()


def test_a_port_of_a_bridge_is_not_absorbed_from_and_absorbed_again_when_it_is_none(
    absorbing: MapScreen, wire: Wire
) -> None:
    """The bridge's own sockets and routes are not to be seen from its port."""
    assert absorbing.absorber
    rejected = begin(absorbing, wire)
    assert not absorbing.absorber.is_due()
    wire.b.ip("link add br0 up type bridge mcast_snooping 0")
    wire.b.ip("link set b0 master br0")
    wire.b.ip("address add 198.18.0.2/24 dev br0")
    wire.b.ip("address del 198.18.0.2/24 dev b0")
    with join(wire.b) as member:
        absorb(absorbing, wire)
        assert send_burst(wire, frame()) == BURST
        del member
    wire.b.ip("link delete br0")
    wire.b.ip("address add 198.18.0.2/24 dev b0")
    with join(wire.b):
        absorb(absorbing, wire)
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


def test_what_multicast_routing_may_route_is_not_absorbed(absorbing: MapScreen, wire: Wire) -> None:
    assert absorbing.absorber
    rejected = begin(absorbing, wire)
    with wire.b.entered():
        routing = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    with routing, join(wire.b):
        routing.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        vif = struct.pack("HBBI4s4s", 0, 0, 1, 0, bytes([198, 18, 0, 2]), bytes(4))
        routing.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        absorb(absorbing, wire)
        assert send_burst(wire, frame()) == BURST
    absorb(absorbing, wire)
    with join(wire.b):
        assert send_burst(wire, frame()) < BURST // 2
    rejected.close()


def test_an_interface_that_is_gone_is_not_absorbed_from(absorbing: MapScreen, wire: Wire) -> None:
    assert absorbing.absorber
    rejected = begin(absorbing, wire)
    wire.b.ip("link delete b0")
    assert absorbing.absorber.is_due()
    gone = absorbing.absorber.pause()
    with wire.b.entered():
        assert without_bystanders(gone) == frozenset()
    absorbing.absorber.absorb_on(frozenset())
    rejected.close()


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
