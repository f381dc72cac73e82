"""Datagrams that come in fragments are relayed whole, and cut to the output's MTU."""

import os
import random
import signal
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from corpus import add_up
from lab import Namespace
from mcr_process import Mcr, wait_until
from topology import MakeMcr, Plant

LARGEST = 65_507  # bytes of payload (RFC 768, RFC 791)
FIRST = 1480  # bytes of a datagram that the first fragment has, and each but the last
MORE = 1 << 13  # fragments follow (RFC 791)


def datagram(
    payload: bytes, number: int, *, source: str = "198.18.0.1", group: str = "239.1.1.1", tos: int = 0
) -> Packet:
    header = Ether(dst="01:00:5e:01:01:01") / IP(src=source, dst=group, id=number, ttl=16, tos=tos)
    return header / UDP(sport=4000, dport=5000) / Raw(payload)


def parts(whole: Packet | bytes) -> list[bytes]:
    """Its fragments, as a network with an MTU of 1,500 bytes makes them."""
    frame = bytes(whole)
    header, data = frame[14:34], frame[34:]
    made = []
    for start in range(0, len(data), FIRST):
        part = data[start : start + FIRST]
        place = MORE * (start + FIRST < len(data)) | start // 8
        place_and_size = header[:2] + struct.pack("!H2sH", 20 + len(part), header[4:6], place)
        made.append(frame[:14] + with_checksum(place_and_size + header[8:]) + part)
    return made


def with_checksum(header: bytes) -> bytes:
    """Of IP, over whatever it has."""
    without = header[:10] + bytes(2) + header[12:]
    return header[:10] + struct.pack("!H", 0xFFFF ^ add_up(without)) + header[12:]


def numbered(fragment: bytes, number: int) -> bytes:
    """The same of another datagram."""
    return fragment[:14] + with_checksum(fragment[14:18] + struct.pack("!H", number) + fragment[20:34]) + fragment[34:]


def changed(frame: bytes, *, start: int | None = None, last: bool | None = None, payload: bytes | None = None) -> bytes:
    """The same fragment with another place in its datagram, or other bytes."""
    made = Ether(frame)
    if start is not None:
        made[IP].frag = start // 8
    if last is not None:
        made[IP].flags = 0 if last else "MF"
    if payload is not None:
        made[IP].remove_payload()
        made = made / Raw(payload)
    del made[IP].chksum, made[IP].len
    return bytes(made)


def filled(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@contextmanager
def receiving(
    namespace: Namespace, group: str = "239.2.2.2", port: int = 6000, interface: str = "rx0"
) -> Iterator[socket.socket]:
    """A socket that has joined; IP puts together there what arrives in fragments."""
    with namespace.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        opened.bind((group, port))
        with namespace.entered():
            index = socket.if_nametoindex(interface)
            member = socket.inet_aton(group) + bytes(4) + index.to_bytes(4, "little")
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        opened.settimeout(10)
        yield opened


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


def come(receiver: socket.socket, last: bytes) -> list[bytes]:
    """Payloads that arrive, up to the last."""
    got: list[bytes] = []
    while last not in got:
        got.append(receiver.recv(LARGEST))
    return got


def start(plant: Plant, make_mcr: MakeMcr, workers: int = 1) -> Mcr:
    mcr = make_mcr(plant.relay).start(workers)
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    if "MCR_ABSORB has no effect on in0" not in mcr.log():
        mcr.wait_for_path("kernel")
    return mcr


def errors(mcr: Mcr) -> dict[str, int]:
    return {name: count for name, count in mcr.stats()["ingress"]["parse_errors"].items() if count}


def test_what_comes_in_fragments_is_relayed_whole(plant: Plant, make_mcr: MakeMcr) -> None:
    """In any order of fragments, among whole datagrams and in the order of these, beside what lacks some."""
    mcr = start(plant, make_mcr, 2)
    sizes = [1472, 1473, 2952, 2953, 100, 9000, 1, LARGEST, 0, 30_001]
    payloads = [filled(size, seed) for seed, size in enumerate(sizes)]
    sent = 0
    with receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        for turn in range(3):
            for number, payload in enumerate(payloads):
                fragments = parts(datagram(payload, 1 + number + 100 * turn))
                orders = [fragments, fragments[::-1], random.Random(7).sample(fragments, len(fragments))]
                send_all(wire, orders[turn])
            sent += len(payloads)
            assert come(receiver, payloads[-1]) == payloads
        halves = [parts(datagram(filled(3000, 50 + each), 1000 + each)) for each in range(3)]
        lacking = [[*halves[0][1:]], [*halves[1][:1], *halves[1][2:]], [*halves[2][:-1]]]
        send_all(wire, chain(*lacking))
        other = parts(datagram(filled(3000, 60), 1100, group="239.1.1.9"))
        send_all(wire, other)
        send_all(wire, parts(datagram(b"the last", 1200)))
        assert come(receiver, b"the last") == [b"the last"]
    missing = sum(map(len, lacking))
    wait_until(lambda: errors(mcr) == {"fragment_incomplete": missing}, "what lacks some is given up")
    stats = mcr.check_counters(arrived=sent + missing + len(other) + 1)
    assert (stats["ingress"]["matched"], stats["ingress"]["no_match"]) == (sent + 1, len(other))
    assert stats["egress"]["bytes"] == 3 * sum(sizes) + len(b"the last")


def test_they_leave_in_fragments_of_the_outputs_mtu(plant: Plant, make_mcr: MakeMcr) -> None:
    """Byte by byte, with a mark of congestion that one of them came with; by another output whole."""
    plant.relay.ip("link set dev out1 mtu 9000")
    plant.receiver.ip("link set dev rx1 mtu 9000")
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0:ttl=keep:dscp=keep", "239.2.2.2:6000:out1")
    payload = filled(4000, 1)
    fragments = [Ether(each) for each in parts(datagram(payload, 9, tos=0xBA))]
    fragments[1][IP].tos |= 3
    del fragments[1][IP].chksum
    with (
        sending(plant.receiver, "rx0") as small,
        sending(plant.receiver, "rx1") as large,
        sending(plant.source) as wire,
    ):
        for each in (small, large):
            each.bind((each.getsockname()[0], 0x0800))
            each.settimeout(10)
        send_all(wire, map(bytes, fragments))
        came = [Ether(small.recv(10_000)) for _ in range(3)]
        (whole,) = [Ether(large.recv(10_000))]
    assert [(each[IP].frag, int(each[IP].flags), each[IP].len) for each in came] == [
        (0, 1, 1500),
        (185, 1, 1500),
        (370, 0, 1068),
    ]
    assert {(each[IP].ttl, each[IP].tos, each[IP].src) for each in came} == {(16, 0xBB, "198.18.1.1")}
    datagrams = [b"".join(bytes(each[IP].payload) for each in came), bytes(whole[IP].payload)]
    assert [each[8:] for each in datagrams] == [payload, payload]
    mcr.check_counters(arrived=1)


def test_fragments_that_contradict_each_other_leave_in_no_datagram(plant: Plant, make_mcr: MakeMcr) -> None:
    """Overlapping ones spoil theirs (RFC 5722), also those to come. One that came twice does no harm."""
    mcr = start(plant, make_mcr)
    sound = filled(3000, 1)
    first, second, third = parts(datagram(sound, 1))

    def of(number: int, frame: bytes, **change: object) -> bytes:
        made = Ether(changed(frame, **change))  # type: ignore[arg-type]
        made[IP].id = number
        del made[IP].chksum
        return bytes(made)

    overlaps = [
        of(2, first),
        of(2, second, start=FIRST - 8),
        of(2, second),
        of(2, third),
        of(3, first),
        of(3, first, payload=filled(FIRST, 9)),  # as long, but with other bytes
        of(3, second),
        of(3, third),
        of(4, third),
        of(4, third, start=2 * FIRST + 800),  # another end
        of(4, first),
        of(4, second),
    ]
    malformed = [
        of(5, first, payload=filled(FIRST - 3, 1)),  # offsets are counted in eight bytes
        of(5, third, start=65_528, payload=bytes(8)),  # no datagram is that long
        of(5, third)[:-4],  # cut short
    ]
    broken = bytearray(of(6, second))
    broken[14 + 8] ^= 0x55  # its header's checksum is wrong
    corrupt = [of(7, first), of(7, second, payload=filled(FIRST, 2)), of(7, third)]  # UDP's is
    foreign = Ether(of(8, first))
    foreign.dst = "02:99:99:99:99:99"
    with receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        send_all(wire, [*overlaps, *malformed, bytes(broken), *corrupt, bytes(foreign)])
        send_all(wire, [first, first, third, second, second])
        assert come(receiver, sound) == [sound]
        wire.send(second)  # in a batch of its own: a copy of what made the datagram whole is nobody's beginning
        again = parts(datagram(filled(3000, 2), 11))
        send_all(wire, again * 2)  # sent again as a whole, as any datagram may be
        assert [receiver.recv(LARGEST) for _ in range(2)] == [filled(3000, 2)] * 2
    doubled = 3
    wait_until(lambda: sum(errors(mcr).values()) == len(overlaps) + doubled + 6, f"they are counted: {errors(mcr)}")
    counted = {
        "malformed": 1,
        "fragment": 2,
        "fragment_overlap": len(overlaps) + doubled,
        "checksum": 2,
        "other_host": 1,
    }
    assert errors(mcr) == counted
    mcr.check_counters(arrived=sum(counted.values()) + 3)


def test_beginnings_without_ends_push_out_their_own(plant: Plant, make_mcr: MakeMcr) -> None:
    """Another source's datagrams arrive all the same, also slowly; and what is pushed out is counted."""
    mcr = start(plant, make_mcr)
    beginnings = [parts(datagram(bytes([turn]) * 2000, 0, source="198.18.0.66"))[0] for turn in range(4)]
    flood = [numbered(each, number) for each in beginnings for number in range(500)]
    payloads = [filled(5000, seed) for seed in range(4)]
    with receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        for number, payload in enumerate(payloads):
            first, *others = parts(datagram(payload, number))
            wire.send(first)
            send_all(wire, flood[500 * number : 500 * (number + 1)])
            send_all(wire, others)
            assert receiver.recv(LARGEST) == payload

    def all_counted() -> bool:
        return sum(errors(mcr).values()) == len(flood)

    wait_until(all_counted, "all are counted")
    assert errors(mcr)["fragment_evicted"] > 1000
    mcr.check_counters(arrived=len(flood) + len(payloads))


def test_what_a_dead_worker_has_held_is_counted(plant: Plant, make_mcr: MakeMcr) -> None:
    """And what is sent after that arrives."""
    mcr = start(plant, make_mcr)
    first, second = parts(datagram(filled(2000, 1), 1))
    (pid,) = mcr.worker_pids()
    with receiving(plant.receiver) as receiver, sending(plant.source) as wire:
        send_all(wire, parts(datagram(filled(2000, 2), 2)))
        assert receiver.recv(LARGEST) == filled(2000, 2)
        send_all(wire, [first] * 3)
        wait_until(lambda: errors(mcr) == {"fragment_overlap": 2}, "the worker has taken them")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: errors(mcr) == {"fragment_overlap": 2, "fragment_incomplete": 1}, "the first one is counted")
        send_all(wire, parts(datagram(filled(2000, 3), 3)))
        assert receiver.recv(LARGEST) == filled(2000, 3)
        wire.send(second)
        wait_until(lambda: errors(mcr).get("fragment_incomplete") == 2, "the second one is counted")
    mcr.check_counters(arrived=6)
    mcr.wait_for_workers()
