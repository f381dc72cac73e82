"""What the filters let in and count, on a real link. Both kinds do the same."""

import os
import resource
import signal
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import attrs
import pytest

from filters import IN_VLAN, OPEN, WANTED, WANTED6, Wire, frame, frame6, may_load_ebpf, opened
from mcr._native import ffi, lib
from mcr.errors import SystemFault, check_result
from mcr.model.flow import Flow
from mcr.model.limits import MAX_RULES
from mcr.net.filter.base import CaptureFilters, Rejected, open_filters
from mcr.net.filter.cbpf import REJECT_ALL, attach_filter, select_udp
from mcr.net.filter.classic import ClassicFilters
from mcr.net.filter.ebpf import EbpfFilters
from mcr.net.interfaces import find_interface
from mcr.process.descriptor_store import DescriptorStore
from mcr_process import wait_until


@pytest.fixture(params=[EbpfFilters, ClassicFilters])
def filters(request: pytest.FixtureRequest) -> Iterator[CaptureFilters]:
    if request.param is EbpfFilters and not may_load_ebpf():
        pytest.skip("eBPF is forbidden here (no CAP_BPF outside user namespaces); the classic filters are tested")
    made: CaptureFilters = request.param(DescriptorStore())
    yield made
    made.close()


def test_only_what_is_wanted_comes_in_and_the_rest_is_counted(filters: CaptureFilters, wire: Wire) -> None:
    filters.change([(3, each) for each in WANTED], ())
    rejected = opened(filters, wire)
    strangers = [frame(port=5001), frame("239.1.1.2"), frame("239.1.1.2", 5002), frame("198.18.0.1"), frame(port=80)]
    right = [frame(), frame(port=5002), frame(options=b"\x94\x04\0\0")]
    priority = b"\x81\x00\x60\0"  # of VLAN 0; the kernel takes it out
    wire.send(*strangers, frame(port=5003, vlan=priority), *right, frame(vlan=priority))
    assert wire.receive(len(right) + 1) == [*right, frame()]
    assert rejected.read() == len(strangers) + 1
    rejected.close()


def test_what_is_no_udp_or_of_a_vlan_is_neither_let_in_nor_counted(filters: CaptureFilters, wire: Wire) -> None:
    filters.change([(3, each) for each in WANTED], ())
    rejected = opened(filters, wire)
    tagged, tcp, odd = frame(vlan=b"\x81\x00\0\7"), frame(proto=6), b"\1" * 12 + b"\x86\xdd" + bytes(100)
    wire.send(tagged, tcp, odd, frame6(vlan=b"\x81\x00\0\7"), frame6(first=6), frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 0
    rejected.close()


@pytest.mark.parametrize("many", [0, 250], ids=["few", "many"])
def test_only_ipv6_that_is_wanted_comes_in_and_the_rest_is_counted(
    filters: CaptureFilters, wire: Wire, many: int
) -> None:
    """Beside IPv4."""
    others = [Flow(IPv4Address("239.3.0.0") + i, 5000) for i in range(many)]
    others += [Flow(IPv6Address("ff15::3:0") + i, 5000) for i in range(many // 2)]
    filters.change([(3, each) for each in (*WANTED, *WANTED6, *others)], ())
    rejected = opened(filters, wire)
    strangers = [frame6(port=5001), frame6("ff15::2", 5002), frame6("ff25::1"), frame6("ff15::1:0:0:1"), frame(port=80)]
    right = [
        frame6(),
        frame6(port=5002),
        frame6("ff15::2"),
        frame(),
        *(frame6(str(each.group)) for each in others[-1:]),
    ]
    wire.send(*strangers, *right)
    assert wire.receive(len(right)) == right
    assert rejected.read() == len(strangers)
    rejected.close()


def test_extension_headers_are_for_the_worker_to_look_behind_and_what_is_no_udp_for_nobody(
    filters: CaptureFilters, wire: Wire
) -> None:
    rejected = opened(filters, wire)
    options, fragment = b"\x11\0\1\4" + bytes(4), b"\x11\0\0\6" + bytes(4)
    behind = [frame6(extensions=options, first=each) for each in (0, 43, 60)]
    behind += [frame6(extensions=fragment, first=44), frame6()[:56]]
    behind += [frame6(extensions=b"\x11\4\0\0" + bytes(20), first=51)]  # an authentication header
    older = frame6()[:14] + b"\x40" + frame6()[15:]
    wire.send(frame6(first=58), frame6(first=50), older, *behind)
    assert wire.receive(len(behind)) == behind
    assert rejected.read() == 0
    rejected.close()


def test_a_vlan_of_which_something_is_wanted_is_let_in_and_counted_as_the_rest(
    filters: CaptureFilters, wire: Wire
) -> None:
    """The eBPF filter looks at each flow's VLAN; classic ones leave that to the workers."""
    filters.change([(3, each) for each in (*WANTED, IN_VLAN)], ())
    rejected = opened(filters, wire)
    tag, other, service = b"\x81\x00\0\7", b"\x81\x00\0\x08", b"\x88\xa8\0\7"
    wire.send(frame(port=5001, vlan=tag), frame(port=5003, vlan=tag), frame(port=5001, vlan=other), frame())
    assert wire.receive(2) == [frame(port=5001), frame()]
    assert rejected.read() == 1
    if isinstance(filters, EbpfFilters):
        wire.send(
            frame(port=5001),
            frame(vlan=tag),
            frame(port=5001, vlan=service),
            frame(vlan=other + tag),
            frame(port=5003, vlan=tag + other),
            frame(fragment=1, vlan=tag),
            frame(fragment=1, vlan=other),
        )
        assert [each[12:16] for each in wire.receive(2)] == [other, frame()[12:16]]
        assert rejected.read() == 3
    filters.show_all(everything=True)
    wire.send(frame(port=5003, vlan=tag), frame(port=5001, vlan=other))
    assert wire.receive(1) == [frame(port=5003)]
    filters.show_all(everything=False)
    filters.change((), [(3, IN_VLAN)])
    wire.send(frame(port=5001, vlan=tag), frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == (3 if isinstance(filters, EbpfFilters) else 1)
    rejected.close()


def test_a_flow_that_is_admitted_twice_is_admitted_once(filters: CaptureFilters, wire: Wire) -> None:
    """As one is that goes from a rule to another. Its VLAN is looked at for as long as something of it is admitted."""
    first, second = (attrs.evolve(IN_VLAN, source=IPv4Address(each)) for each in ("198.18.0.1", "198.18.0.2"))
    rejected = opened(filters, wire)
    filters.change([(3, first), (3, WANTED[0])], ())
    filters.change([(3, first), (3, second)], ())
    filters.change((), [(3, second)])
    tag = b"\x81\x00\0\7"
    wire.send(frame(port=5001, vlan=tag), frame())
    assert wire.receive(2) == [frame(port=5001), frame()]
    filters.change((), [(3, first)])
    wire.send(frame(port=5001, vlan=tag), frame(port=5003, vlan=tag), frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 0
    rejected.close()


def test_what_was_admitted_goes_with_its_capture(filters: CaptureFilters, wire: Wire) -> None:
    """The next one in its slot may be of another interface."""
    filters.change([(3, WANTED[0]), (3, IN_VLAN)], ())
    filters.forget(3)
    rejected = opened(filters, wire)
    wire.send(frame(), frame(port=5001, vlan=b"\x81\x00\0\7"))
    assert wire.receive(0) == []
    assert rejected.read() == 1
    rejected.close()


def test_what_cannot_be_told_from_its_headers_is_for_the_worker(filters: CaptureFilters, wire: Wire) -> None:
    rejected = opened(filters, wire)
    odd = [frame(first=0x43), frame(first=0x65), frame(first=0x35)]
    odd += [frame()[:34], frame()[:36], frame(options=bytes(4))[:40]]  # without ports
    wire.send(*odd, frame(proto=6)[:34])
    assert wire.receive(len(odd)) == odd
    assert rejected.read() == 0
    rejected.close()


def test_fragments_come_in_if_anything_of_their_group_is_wanted(filters: CaptureFilters, wire: Wire) -> None:
    """Whatever the port: only the first one has it. That a flow of two goes changes nothing."""
    filters.change([(3, each) for each in WANTED], ())
    rejected = opened(filters, wire)
    parts = [frame(port=port, fragment=place) for port in (5000, 9) for place in (0x2000, 0x2010, 0x0010)]
    parts += [frame(fragment=0x2000, options=bytes(4)), frame(fragment=0x0010)[:36]]
    strangers = [frame("239.1.1.2", fragment=place) for place in (0x2000, 0x0010)]
    wire.send(*parts, *strangers)
    assert wire.receive(len(parts)) == parts
    assert rejected.read() == len(strangers)
    filters.change((), [(3, WANTED[0])])
    wire.send(parts[0], frame())
    assert wire.receive(1) == [parts[0]]
    filters.change((), [(3, WANTED[1])])
    wire.send(parts[0])
    filters.change([(3, WANTED[0])], ())
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == len(strangers) + 2
    rejected.close()


def part6(group: str, place: int, *, protocol: int = 17, port: int = 5000, options: int = 0) -> bytes:
    """A fragment, behind so many headers with options; `place`: offset and more-fragments flag."""
    header, padding = struct.pack("!BxHI", protocol, place, 7), b"\1\4" + bytes(4)
    before = b"".join(bytes([44 if last else 60, 0]) + padding for last in [False, True][2 - options :])
    return frame6(group, port, extensions=before + header, first=60 if options else 44)


def test_fragments_of_ipv6_come_in_if_anything_of_their_group_is_wanted(filters: CaptureFilters, wire: Wire) -> None:
    """What has the header of one and is whole is for the worker; what belongs to no UDP for nobody. Classic filters do
    not look behind other headers."""
    filters.change([(3, each) for each in WANTED6], ())
    rejected = opened(filters, wire)
    parts = [part6("ff15::1", place, port=port) for port in (5000, 9) for place in (1, 81, 0xFFF8)]
    parts += [part6("ff15::1", 81, protocol=60), part6("ff15::1", 80)[:62], part6("ff15::1", 81, options=2)]
    parts += [part6("ff15::3", 0), part6("ff15::3", 6)]
    strangers = [part6("ff15::3", place) for place in (1, 80, 81)]
    if isinstance(filters, EbpfFilters):
        strangers += [part6("ff15::3", 80, options=1), part6("ff15::3", 1, options=2)]
    wire.send(*parts, *strangers, part6("ff15::1", 80, protocol=58))
    assert wire.receive(len(parts)) == parts
    assert rejected.read() == len(strangers)
    filters.change((), [(3, each) for each in WANTED6[:2]])
    wire.send(parts[0], frame6("ff15::2"))
    assert wire.receive(1) == [frame6("ff15::2")]
    assert rejected.read() == len(strangers) + 1
    rejected.close()


def test_a_change_is_in_force_at_once(filters: CaptureFilters, wire: Wire) -> None:
    rejected = opened(filters, wire)
    wire.send(frame())
    filters.change([(3, WANTED[0]), (4, WANTED[1])], ())  # the second one is another interface's
    wire.send(frame(), frame(port=5002))
    assert wire.receive(1) == [frame()]
    filters.change([(3, WANTED[1])], [(3, WANTED[0])])
    wire.send(frame(), frame(port=5002))
    assert wire.receive(1) == [frame(port=5002)]
    assert rejected.read() == 3
    rejected.close()


def test_everything_is_shown_on_demand(filters: CaptureFilters, wire: Wire) -> None:
    rejected = opened(filters, wire)
    wire.send(frame(port=1))
    filters.show_all(everything=True)
    wire.send(frame(port=2), frame(proto=6))
    assert wire.receive(1) == [frame(port=2)]
    filters.show_all(everything=False)
    wire.send(frame(port=3))
    assert rejected.read() == 2
    rejected.close()


def test_without_a_descriptor_left_a_filter_stays_as_it_was(filters: CaptureFilters, wire: Wire) -> None:
    """Changing what is shown is no reason to fail; opening a capture then is, and leaves nothing behind."""
    filters.change([(3, WANTED[0])], ())
    rejected = opened(filters, wire)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len([*OPEN.iterdir()])
    with wire.b.entered():
        b0 = find_interface("b0")
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            filters.show_all(everything=True)
            filters.show_all(everything=False)
            with pytest.raises(SystemFault):
                filters.open(4, b0, [wire.capture])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len([*OPEN.iterdir()]) == before
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    rejected.close()


def test_a_change_that_fails_undoes_only_itself(filters: CaptureFilters, wire: Wire) -> None:
    """eBPF takes a new program where the first rule names a source; another rule has some of it already."""
    filters.change([(3, WANTED[0]), (3, IN_VLAN)], ())
    rejected = opened(filters, wire)
    of_source = attrs.evolve(WANTED[1], source=IPv4Address("198.18.0.1"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        if isinstance(filters, EbpfFilters):
            with pytest.raises(SystemFault, match="SO_ATTACH_BPF"):
                filters.change([(3, WANTED[0]), (3, IN_VLAN), (3, of_source)], ())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wire.send(frame(), frame(port=5001, vlan=b"\x81\x00\0\7"), frame(port=5002))
    assert wire.receive(2) == [frame(), frame(port=5001)]
    filters.change([(3, of_source)], ())
    wire.send(frame(port=5002))
    assert wire.receive(1) == [frame(port=5002)]
    assert rejected.read() == 1
    rejected.close()


def test_next_capture_in_a_slot_counts_from_zero(filters: CaptureFilters, wire: Wire) -> None:
    first = opened(filters, wire)
    wire.send(frame(), frame())
    wait_until(lambda: first.read() == 2, "both are counted")
    filters.forget(3)
    first.close()
    attach_filter(wire.capture, REJECT_ALL)
    wire.send(frame())
    second = opened(filters, wire)
    assert second.read() == 0
    wire.send(frame())
    wait_until(lambda: second.read() == 1, "it is counted")
    second.close()


def what_is_left(filters: CaptureFilters) -> dict[str, int]:
    """Descriptors of its own, by name, as a service manager has them."""
    return {name: os.dup(each) for name, each in filters._store.all().items()}  # type: ignore[attr-defined]


def adopted(wire: Wire, kind: type[CaptureFilters], left: dict[str, int]) -> tuple[CaptureFilters, Rejected]:
    """By the next mcrd."""
    successor: CaptureFilters = kind(DescriptorStore(inherited=left))  # type: ignore[call-arg]
    with wire.b.entered():
        return successor, successor.adopt(3, find_interface("b0"), [wire.capture])


def test_next_mcrd_goes_on_with_a_filter_and_its_count(filters: CaptureFilters, wire: Wire) -> None:
    """What the first one admits comes in until the next one has said what it admits; nothing is uncounted."""
    filters.change([(3, WANTED[0])], ())
    first = opened(filters, wire)
    wire.send(frame(port=5001))
    wait_until(lambda: first.read() == 1, "it is counted")
    state = first.state
    left = what_is_left(filters)
    first.close()
    filters.close()
    successor, second = adopted(wire, type(filters), left)
    second.resume(state)
    successor.change([(3, WANTED[1])], ())
    rejected = [frame(port=5001), frame(str(WANTED[1].group), WANTED[1].port)]
    wire.send(frame(), *(rejected if isinstance(filters, EbpfFilters) else ()))
    assert wire.receive(1) == [frame()]
    successor.install()
    wire.send(frame(), frame(str(WANTED[1].group), WANTED[1].port))
    assert wire.receive(1) == [frame(str(WANTED[1].group), WANTED[1].port)]
    assert second.read() == (4 if isinstance(filters, EbpfFilters) else 2)
    second.close()
    successor.close()


def test_mcrd_that_fails_to_start_leaves_filter_and_count_to_the_next(filters: CaptureFilters, wire: Wire) -> None:
    filters.change([(3, WANTED[0])], ())
    opened(filters, wire).close()
    kept = what_is_left(filters)
    failed, count = adopted(wire, type(filters), what_is_left(filters))
    count.close()
    failed.close()
    assert failed._store.all().keys() == kept.keys()  # type: ignore[attr-defined]
    successor, count = adopted(wire, type(filters), kept)
    wire.send(frame(), frame(port=5001))
    assert wire.receive(1) == [frame()]
    assert count.read() == 1
    count.close()
    successor.close()


def test_too_many_rules_for_a_classic_filter_leave_it_to_the_workers(wire: Wire) -> None:
    """Nothing is lost: workers sort out what a filter can't."""
    filters = ClassicFilters(DescriptorStore())
    many = [Flow(IPv4Address("239.2.0.0") + i, 5000) for i in range(2000)]
    with pytest.raises(OverflowError):
        select_udp(many, 14)
    filters.change([(3, each) for each in many], ())
    rejected = opened(filters, wire)
    wire.send(frame(), frame("239.2.0.9"))
    assert wire.receive(2) == [frame(), frame("239.2.0.9")]
    filters.change([(3, WANTED[0])], [(3, each) for each in many])
    wire.send(frame("239.2.0.9"), frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 1
    rejected.close()
    filters.close()


def test_too_many_vlans_for_a_classic_filter_end_nothing(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of them comes in, which is told. What is left as others go comes in again."""
    filters = ClassicFilters(DescriptorStore())
    many = [(3, Flow(WANTED[0].group, 5000, vlan)) for vlan in range(1, 251)]
    filters.change([(3, WANTED[0]), *many], ())
    rejected = opened(filters, wire)
    assert caplog.messages == ["a filter could not be changed: 251 VLANs are too many for classic BPF"]
    wire.send(frame())
    assert wire.receive(0) == []
    filters.change((), many)
    wire.send(frame())
    assert wire.receive(1) == [frame()]
    assert rejected.read() == 1
    rejected.close()
    filters.close()


@pytest.mark.slow
def test_map_holds_as_many_rules_as_a_relay(wire: Wire) -> None:
    """And more, each to a group of its own. Or there is none, and the classic filters take its place."""
    filters = open_filters(DescriptorStore(), suppress=False, path=None)
    if not may_load_ebpf():
        assert isinstance(filters, ClassicFilters)
        return
    most = [(3, Flow(IPv4Address("239.2.0.0") + i, 5000)) for i in range(5 * MAX_RULES // 2)]
    filters.change(most, ())
    with pytest.raises(SystemFault, match="BPF_MAP_UPDATE_ELEM"):
        filters.change([(3, WANTED[0]), (3, WANTED[1])], ())
    filters.change([], most[:1])
    rejected = opened(filters, wire)
    wire.send(frame(), frame("239.2.0.0"), frame("239.2.159.255"))
    assert wire.receive(1) == [frame("239.2.159.255")]
    assert rejected.read() == 2
    rejected.close()
    filters.close()


@pytest.mark.slow
@pytest.mark.skipif(not may_load_ebpf(), reason="eBPF is forbidden here (no CAP_BPF outside user namespaces)")
def test_signals_cost_no_program() -> None:
    """The kernel's verifier gives up whenever one is pending."""
    wanted, rejected = (check_result(opened()) for opened in (lib.mcr_bpf_open_wanted, lib.mcr_bpf_open_rejected))
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3e-3, 3e-3)
        for _ in range(500):
            os.close(
                check_result(lib.mcr_bpf_load_filter(wanted, rejected, ffi.NULL, ffi.new("struct mcr_bpf_filter *")))
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(wanted)
        os.close(rejected)
