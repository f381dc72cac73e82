"""Datagrams that come in fragments are relayed whole, and cut to the output's MTU; of either family."""

import os
import random
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, zip_longest

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from fragments import FAMILIES, Family, filled
from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, Mcr, wait_until
from topology import MakeMcr, Plant

GIVEN_UP_AFTER = 1.0
"""Seconds that fragments wait for the others of their datagram."""


@pytest.fixture
def both(plant: Plant) -> Plant:
    """With addresses of IPv6 where packets come in and behind out0 and out1."""
    speak_ipv6(plant.source, "src0", "2001:db8::1/64")
    speak_ipv6(plant.relay, "in0", "2001:db8::2/64")
    for i in range(2):
        speak_ipv6(plant.relay, f"out{i}", f"2001:db8:{i + 1}::1/64")
        speak_ipv6(plant.receiver, f"rx{i}", f"2001:db8:{i + 1}::2/64")
    return plant


@contextmanager
def sending(namespace: Namespace, interface: str = "src0") -> Iterator[socket.socket]:
    with namespace.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with opened:
        opened.bind((interface, 0))
        yield opened


def send_all(wire: socket.socket, frames: Iterable[bytes]) -> None:
    for each in frames:
        wire.send(each)


def start(plant: Plant, make_mcr: MakeMcr, workers: int = 1) -> Mcr:
    mcr = make_mcr(plant.relay).start(workers)
    for family in FAMILIES:
        mcr.add(*family.rule)
    if is_by_kernel(mcr):
        for rule in range(len(FAMILIES)):
            mcr.wait_for_path("kernel", rule)
    return mcr


def is_by_kernel(mcr: Mcr) -> bool:
    return "MCR_ABSORB has no effect on in0" not in mcr.log()


def errors(mcr: Mcr) -> dict[str, int]:
    return {name: count for name, count in mcr.stats()["ingress"]["parse_errors"].items() if count}


def test_what_comes_in_fragments_is_relayed_whole(both: Plant, make_mcr: MakeMcr) -> None:
    """In any order of fragments, among whole datagrams and in the order of these, beside what lacks some. When nothing
    waits any more, flows take the kernel path."""
    mcr = start(both, make_mcr, 2)
    did = [keep_order(both, family, mcr.worker_pids()) for family in FAMILIES]
    did += [relay_whole(both, family) for family in FAMILIES]
    missing = sum(each.lacking for each in did)
    wait_until(lambda: errors(mcr) == {"fragment_incomplete": missing}, "what lacks some is given up")
    before = mcr.stats()["kernel_path"]["matched"]
    did += [relay_one(both, family) for family in FAMILIES]
    if is_by_kernel(mcr):
        wait_until(lambda: mcr.stats()["kernel_path"]["matched"] == before + len(FAMILIES), "the kernel path has both")
    matched, others = sum(each.matched for each in did), sum(each.others for each in did)
    stats = mcr.check_counters(arrived=matched + missing + others)
    assert (stats["ingress"]["matched"], stats["ingress"]["no_match"]) == (matched, others)
    assert stats["egress"]["bytes"] == sum(each.size for each in did)


class Sums:
    """What was sent of one family."""

    def __init__(self) -> None:
        self.matched = self.lacking = self.others = self.size = 0


@contextmanager
def standing_still(workers: list[int]) -> Iterator[None]:
    """What overtakes them can do so."""
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def keep_order(plant: Plant, family: Family, workers: list[int]) -> Sums:
    """What follows fragments does not overtake them, whatever another sender's whole datagrams bring about."""
    sums = Sums()
    assert any(is_order_kept(plant, family, workers, sums, turn) for turn in range(30))
    return sums


def is_order_kept(plant: Plant, family: Family, workers: list[int], sums: Sums, turn: int) -> bool:
    """False: the machine has taken so long that the fragments were given up."""
    long, short = filled(9000, 70), filled(100, 71)
    others = [filled(100, 80 + each) for each in range(10)]
    *beginning, end = family.parts(family.datagram(long, 2100 + turn))
    begun = time.monotonic()
    with family.receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        send_all(wire, beginning)
        for each in others:
            send_all(wire, family.parts(family.datagram(each, 2001, source=family.other)))
            assert receiver.recv(family.largest) == each
        with standing_still(workers):
            send_all(wire, [end, *family.parts(family.datagram(short, 2002))])
        came = family.come(receiver, short)
    is_late = time.monotonic() - begun > GIVEN_UP_AFTER and came == [short]
    assert is_late or came == [long, short]
    sums.matched += len(came) + len(others)
    sums.size += sum(map(len, [*came, *others]))
    sums.lacking += len([*beginning, end]) if is_late else 0
    return not is_late


def relay_one(plant: Plant, family: Family) -> Sums:
    sums = Sums()
    with family.receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        send_all(wire, family.parts(family.datagram(b"one", 2003)))
        assert receiver.recv(family.largest) == b"one"
    sums.matched, sums.size = 1, len(b"one")
    return sums


def relay_whole(plant: Plant, family: Family) -> Sums:
    sums, first = Sums(), family.first
    sizes = [first - 8, first - 7, 2 * first - 8, 2 * first - 7, 100, 9000, 1, family.largest, 0, 30_001]
    payloads = [filled(size, seed) for seed, size in enumerate(sizes)]

    def parts(payload: bytes, number: int, **of: str) -> list[bytes]:
        sums.matched += not of
        sums.size += 0 if of else len(payload)
        return family.parts(family.datagram(payload, number, **of))  # type: ignore[arg-type]

    with family.receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        for turn in range(3):
            for number, payload in enumerate(payloads):
                fragments = parts(payload, 1 + number + 100 * turn)
                orders = [fragments, fragments[::-1], random.Random(7).sample(fragments, len(fragments))]
                send_all(wire, orders[turn])
            assert family.come(receiver, payloads[-1]) == payloads
        several = [parts(filled(8000, 40 + each), 900 + each) for each in range(5)]
        send_all(wire, filter(None, chain(*zip_longest(*several))))  # one of each, again and again
        assert family.come(receiver, filled(8000, 44)) == [filled(8000, 40 + each) for each in range(5)]
        halves = [family.parts(family.datagram(filled(3000, 50 + each), 1000 + each)) for each in range(3)]
        lacking = [*halves[0][1:], *halves[1][:1], *halves[1][2:], *halves[2][:-1]]
        send_all(wire, lacking)
        others = parts(filled(3000, 60), 1100, group=family.unjoined)
        send_all(wire, others)
        send_all(wire, parts(b"the last", 1200))
        assert family.come(receiver, b"the last") == [b"the last"]
    sums.lacking, sums.others = len(lacking), len(others)
    return sums


def test_they_leave_in_fragments_of_the_outputs_mtu(both: Plant, make_mcr: MakeMcr) -> None:
    """Byte by byte, with a mark of congestion that one of them came with; by another output whole."""
    both.relay.ip("link set dev out1 mtu 9000")
    both.receiver.ip("link set dev rx1 mtu 9000")
    mcr = make_mcr(both.relay).start()
    payload = filled(4000, 1)
    for family in FAMILIES:
        where, output = family.rule
        mcr.add(where, f"{output}:ttl=keep:dscp=keep", f"{output[:-4]}out1")
        fragments = family.parts(family.datagram(payload, 9, tos=0xBA))
        fragments[1] = marked(fragments[1])
        with (
            sending(both.receiver, "rx0") as small,
            sending(both.receiver, "rx1") as large,
            sending(both.source) as wire,
        ):
            for each in (small, large):
                each.bind((each.getsockname()[0], family.kind))
                each.settimeout(PATIENCE)
            send_all(wire, fragments)
            came = [udp_of(small) for _ in range(3)]
            whole = udp_of(large)
        (check_ipv4 if family.version == 4 else check_ipv6)(came)
        layer = IP if family.version == 4 else IPv6ExtHdrFragment
        datagrams = [b"".join(bytes(each[layer].payload) for each in came)]
        datagrams.append(bytes((whole[IP] if family.version == 4 else whole[IPv6]).payload))
        assert [each[8:] for each in datagrams] == [payload, payload]
    mcr.check_counters(arrived=len(FAMILIES))


def marked(fragment: bytes) -> bytes:
    made = Ether(fragment)
    if IP in made:
        made[IP].tos |= 3
        del made[IP].chksum
    else:
        made[IPv6].tc |= 3
    return bytes(made)


def udp_of(tap: socket.socket) -> Packet:
    """The next one, or a fragment of such: a host of IPv6 says more by itself."""
    while True:
        found = Ether(tap.recv(10_000))
        if IP in found or found[IPv6].nh in (17, 44):
            return found


def check_ipv4(came: list[Packet]) -> None:
    assert [(each[IP].frag, int(each[IP].flags), each[IP].len) for each in came] == [
        (0, 1, 1500),
        (185, 1, 1500),
        (370, 0, 1068),
    ]
    assert {(each[IP].ttl, each[IP].tos, each[IP].src) for each in came} == {(16, 0xBB, "198.18.1.1")}


def check_ipv6(came: list[Packet]) -> None:
    headers = [each[IPv6ExtHdrFragment] for each in came]
    assert [(each.offset, each.m) for each in headers] == [(0, 1), (181, 1), (362, 0)]
    assert [each[IPv6].plen for each in came] == [1456, 1456, 1120]
    assert {(each[IPv6].hlim, each[IPv6].tc, each[IPv6].src) for each in came} == {(16, 0xBB, "2001:db8:1::1")}


def test_fragments_that_contradict_each_other_leave_in_no_datagram(both: Plant, make_mcr: MakeMcr) -> None:
    """Overlapping ones spoil theirs (RFC 5722), also those to come. One that came twice does no harm."""
    mcr = start(both, make_mcr)
    counted = {"malformed": 2, "fragment": 4, "fragment_overlap": 30, "checksum": 3, "source": 1, "other_host": 2}
    for family in FAMILIES:
        contradict(both, family)
    wait_until(lambda: sum(errors(mcr).values()) == sum(counted.values()), f"they are counted: {errors(mcr)}")
    assert errors(mcr) == counted
    mcr.check_counters(arrived=sum(counted.values()) + 3 * len(FAMILIES))


def contradict(plant: Plant, family: Family) -> None:
    sound, size, of = filled(3000, 1), family.first, family.changed
    first, second, third = family.parts(family.datagram(sound, 1))
    overlaps = [
        of(first, 2),
        of(second, 2, start=size - 8),
        of(second, 2),
        of(third, 2),
        of(first, 3),
        of(first, 3, payload=filled(size, 9)),  # as long, but with other bytes
        of(second, 3),
        of(third, 3),
        of(third, 4),
        of(third, 4, start=2 * size + 800),  # another end
        of(first, 4),
        of(second, 4),
    ]
    malformed = [
        of(first, 5, payload=filled(size - 3, 1)),  # offsets are counted in eight bytes
        of(third, 5, start=65_528, payload=bytes(8)),  # no datagram is that long
        of(third, 5)[:-4],  # cut short
    ]
    broken = bytearray(of(second, 6))
    if family.version == 4:
        broken[14 + 8] ^= 0x55  # its header's checksum is wrong
    else:
        broken[14 + 8 : 14 + 24] = socket.inet_pton(socket.AF_INET6, "::1")  # which no host has
    corrupt = [of(first, 7), of(second, 7, payload=filled(size, 2)), of(third, 7)]  # UDP's is
    foreign = Ether(of(first, 8))
    foreign.dst = "02:99:99:99:99:99"
    with family.receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        send_all(wire, [*overlaps, *malformed, bytes(broken), *corrupt, bytes(foreign)])
        send_all(wire, [first, first, third, second, second])
        assert family.come(receiver, sound) == [sound]
        wire.send(second)  # in a batch of its own: a copy of what made the datagram whole is nobody's beginning
        again = family.parts(family.datagram(filled(3000, 2), 11))
        send_all(wire, again * 2)  # sent again as a whole, as any datagram may be
        assert [receiver.recv(family.largest) for _ in range(2)] == [filled(3000, 2)] * 2


def test_beginnings_without_ends_push_out_their_own(both: Plant, make_mcr: MakeMcr) -> None:
    """Another source's datagrams arrive all the same, also slowly; and what is pushed out is counted."""
    mcr = start(both, make_mcr)
    flooded = 0
    for family in FAMILIES:
        payloads = [filled(5000, seed) for seed in range(4)]
        with family.receiving(both.receiver) as receiver, sending(both.source) as wire:
            for number, payload in enumerate(payloads):
                beginning, *_ = family.parts(family.datagram(bytes([number]) * 2000, 0, source=family.other))
                first, *others = family.parts(family.datagram(payload, number))
                wire.send(first)
                send_all(wire, (family.numbered(beginning, each) for each in range(500)))
                send_all(wire, others)
                assert receiver.recv(family.largest) == payload
                flooded += 500

    def all_counted() -> bool:
        return sum(errors(mcr).values()) == flooded

    wait_until(all_counted, "all are counted")
    assert errors(mcr)["fragment_evicted"] > flooded // 2
    mcr.check_counters(arrived=flooded + 4 * len(FAMILIES))


def test_what_a_dead_worker_has_held_is_counted(both: Plant, make_mcr: MakeMcr) -> None:
    """And what is sent after that arrives."""
    mcr = start(both, make_mcr)
    (pid,) = mcr.worker_pids()
    with sending(both.source) as wire:
        for family in FAMILIES:
            first, _ = family.parts(family.datagram(filled(2000, 1), 1))
            with family.receiving(both.receiver) as receiver:
                send_all(wire, family.parts(family.datagram(filled(2000, 2), 2)))
                assert receiver.recv(family.largest) == filled(2000, 2)
            send_all(wire, [first] * 3)
        wait_until(lambda: errors(mcr) == {"fragment_overlap": 4}, "the worker has taken them")
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: errors(mcr) == {"fragment_overlap": 4, "fragment_incomplete": 2}, "the first ones are counted"
        )
        for family in FAMILIES:
            _, second = family.parts(family.datagram(filled(2000, 1), 1))
            with family.receiving(both.receiver) as receiver:
                send_all(wire, family.parts(family.datagram(filled(2000, 3), 3)))
                assert receiver.recv(family.largest) == filled(2000, 3)
            wire.send(second)
        wait_until(lambda: errors(mcr).get("fragment_incomplete") == 4, "the second ones are counted")
    mcr.check_counters(arrived=12)
    mcr.wait_for_workers()
