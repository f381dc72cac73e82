"""Both paths send the same bytes and count the same: ten thousand frames of every kind through each."""

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from corpus import FRAGMENT, GROUP, GROUP6, PORT, UDP, Corpus, Corpus6, Datagram, Datagram6, Frame, add_up
from ipv6_addresses import speak_ipv6
from lab import Namespace
from mcr_process import PATIENCE, Mcr, wait_until
from raw_frames import without_checksum_offload
from topology import MakeMcr, Plant, need_tcx

SOL_PACKET, PACKET_VNET_HDR = 263, 15
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
LAST = b"the last of all"
NO_ID = bytes(2)
LEAST_MTU = 1400
ETH_P = {4: 0x0800, 6: 0x86DD}
MAKE: dict[int, type[Corpus]] = {4: Corpus, 6: Corpus6}
MADE_OF: dict[int, type[Datagram | Datagram6]] = {4: Datagram, 6: Datagram6}
TAKEN = {4: GROUP, 6: f"[{GROUP6}]"}
OUTPUTS = {
    4: ("239.2.2.2:6000:out0", "239.2.2.3:6001:out1", "239.2.2.4:6002:out2:source=keep:ttl=dec"),
    6: (
        "[ff15::2]:6000:out0:dscp=keep",
        "[2001:db8:2::2]:6001:out1",
        "[ff15::4]:6002:out2:source=keep:ttl=dec",
    ),
}
PORTION = 250  # datagrams at once, to three outputs: a processor holds 1000 frames for later (netdev_max_backlog)
COUNTS = {4: (7000, 500, 500, 2000), 6: (2000, 300, 300, 500)}
"""Frames of each kind: plain, odd, unsound; the last come out of a tunnel."""


@contextmanager
def packet_socket(namespace: Namespace, interface: str, version: int, *, sends: bool) -> Iterator[socket.socket]:
    """Whole frames that arrive; or that are to leave, each behind how it is to be treated."""
    with namespace.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0 if sends else socket.htons(ETH_P[version]))
    with opened:
        if sends:
            opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE if sends else SO_RCVBUFFORCE, 256 << 20)
        opened.bind((interface, 0 if sends else ETH_P[version]))
        opened.settimeout(PATIENCE)
        yield opened


def tunnel(plant: Plant) -> None:
    """src1 ── in1: VXLAN with checksums. Of what comes out of it the kernel knows the sum (CHECKSUM_COMPLETE).

    It tells workers that the inner checksum is right, as soon as the outer one is. So nothing unsound is sent there.
    """
    addresses = "198.18.9.1", "198.18.9.2"
    plant.lab.link(
        *(plant.source, "under0", plant.relay, "under1"),
        a_address=f"{addresses[0]}/24",
        b_address=f"{addresses[1]}/24",
        mtu=9000,
    )
    for namespace, name, (local, remote) in ((plant.source, "src1", addresses), (plant.relay, "in1", addresses[::-1])):
        vxlan = f"vxlan id 5 dstport 4789 local {local} remote {remote} udpcsum"
        namespace.ip(f"link add {name} mtu 1500 type {vxlan}", f"link set dev {name} up")
    plant.source.set_feature("under0", "tx-checksum-ip-generic", enable=False)  # or nobody adds up


def portions(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """As many as may wait for a processor."""
    portion, datagrams = list[Frame](), 0
    for each in frames:
        datagrams += each.datagrams
        if datagrams > PORTION:
            yield portion
            portion, datagrams = [], each.datagrams
        portion.append(each)
    yield portion


def received(came: socket.socket) -> Iterator[bytes]:
    """What has come out, up to the last of a portion; of IPv6 not what the machine itself has to say."""
    frame = b""
    while not frame.endswith(LAST):
        frame = came.recv(2048)
        if not is_ipv6(frame) or frame[20] in (UDP, FRAGMENT):
            yield frame


def counted(mcr: Mcr) -> dict[str, Any]:
    """All that is to be the same."""
    stats = mcr.check_counters()
    totals = {name: stats[name] | {"pps": 0} for name in ("ingress", "egress")}
    inputs = [each for each in stats["interfaces"] if each["interface"].startswith("in")]
    return {"totals": flat(totals), "inputs": flat(inputs), "rules": flat(stats["rules"])}


def flat(value: Any, name: str = "") -> dict[str, int]:
    """All counters in it, by where they stand."""
    if isinstance(value, dict | list):
        each = value.items() if isinstance(value, dict) else enumerate(value)
        return {place: number for key, part in each for place, number in flat(part, f"{name}.{key}").items()}
    changes = name.endswith(("pps", "bps", "ago"))
    return {name: value} if isinstance(value, int) and not changes else {}


def since(before: dict[str, Any], now: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {part: {name: each[name] - before[part].get(name, 0) for name in each} for part, each in now.items()}


def last_errors(mcr: Mcr) -> list[str | None]:
    """Of outputs, in words."""
    return [each["last_error"] for rule in mcr.stats()["rules"] for each in rule["outputs"]]


def is_ipv6(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd"


def with_sum(frame: bytes) -> bytes:
    """With a UDP checksum, where there is none: in IPv4."""
    if is_ipv6(frame) or frame[40:42] != b"\0\0":
        return frame
    size = 14 + struct.unpack_from("!H", frame, 16)[0]
    pseudo = frame[26:34] + struct.pack("!HH", 17, size - 34)
    total = add_up(pseudo + frame[34:size] + bytes(size % 2))
    return frame[:40] + struct.pack("!H", 0xFFFF ^ total or 0xFFFF) + frame[42:]


def without_id(frame: bytes) -> bytes:
    """Without the identification, which the kernel counts in a train and where it cuts."""
    if is_ipv6(frame):
        return frame[:58] + NO_ID * 2 + frame[62:] if frame[20] == FRAGMENT else frame
    header = frame[14:18] + NO_ID + frame[20:24] + b"\0\0" + frame[26:34]
    assert add_up(frame[14:34]) == 0xFFFF, "IP's checksum is right"
    return frame[:14] + header + frame[34:]


@contextmanager
def on_one_processor() -> Iterator[None]:
    """What is sent inside arrives in order: each processor has a queue of its own for what veth pairs pass.

    It is another one than the worker's, which would otherwise forward each frame before the next one is sent.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def passed(
    plant: Plant, mcr: Mcr, version: int, corpora: dict[str, list[Frame]]
) -> tuple[list[list[bytes]], dict[str, Any]]:
    """Have the relay forward everything. What comes out of out0 to out2 for each input, and what it has counted."""
    before = counted(mcr)
    last = MADE_OF[version](LAST).frame()
    made: list[list[bytes]] = []
    for interface, frames in corpora.items():
        with ExitStack() as stack:
            out = stack.enter_context(packet_socket(plant.source, interface, version, sends=True))
            listening = (packet_socket(plant.receiver, f"rx{i}", version, sends=False) for i in range(3))
            wires = [stack.enter_context(each) for each in listening]
            taken: tuple[list[bytes], ...] = ([], [], [])
            for portion in portions(frames):
                with on_one_processor():
                    for each in (*portion, last):
                        out.send(each.header + each.data)
                for wire, those in zip(wires, taken, strict=True):
                    those.extend(received(wire))
            made.extend(taken)
    return made, since(before, counted(mcr))


def with_checksums_that_come_to_zero(output: bytes) -> list[Frame]:
    """Datagrams whose UDP checksum becomes 0xffff, and is never 0 (RFC 768). `output`: what one is like on the wire."""
    if is_ipv6(output):
        pseudo = output[22:54] + struct.pack("!HH", 17, 14) + output[54:58] + struct.pack("!H", 14)
    else:
        pseudo = output[26:34] + struct.pack("!HH", 17, 14) + output[34:38] + struct.pack("!H", 14)
    datagram = MADE_OF[6 if is_ipv6(output) else 4]
    made = []
    for number in range(50):
        begin = struct.pack("!HH", number, 7 * number)
        made.append(datagram(begin + struct.pack("!H", 0xFFFF ^ add_up(pseudo + begin))).frame())
    return made


def with_ipv6(plant: Plant) -> None:
    """Of the relay's interfaces, and of those that hosts answer by."""
    addresses = {"in0": "2001:db8::2", "in1": "2001:db8:9::2", **{f"out{i}": f"2001:db8:{i + 1}::1" for i in range(3)}}
    for name, address in addresses.items():
        speak_ipv6(plant.relay, name, f"{address}/64")
    speak_ipv6(plant.receiver, "rx1", "2001:db8:2::2/64")


@pytest.mark.parametrize("version", [4, 6])
def test_both_paths_send_the_same_bytes_and_count_the_same(plant: Plant, make_mcr: MakeMcr, version: int) -> None:
    """The order is the same, too. They differ in two things: a UDP checksum of 0 stays 0 on the kernel path alone, and
    IP's identification is counted where the kernel cuts something (a super-frame, a worker's train, a long datagram),
    and where a worker has IP send a datagram. IPv6 has neither, but in fragments.
    """
    tunnel(plant)
    plant.relay.ip(f"link set dev out1 mtu {LEAST_MTU}")
    for out in ("out0", "out1", "out2"):
        without_checksum_offload(plant.relay, out)
    if version == 6:
        with_ipv6(plant)
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=32768"]).start()
    outputs = OUTPUTS[version]
    rules = [mcr.add(f"{interface}:{TAKEN[version]}:{PORT}", *outputs) for interface in ("in0", "in1")]
    need_tcx(mcr)
    wait_until(lambda: {each["path"] for each in mcr.call("list")} == {"kernel"}, "the kernel forwards")

    (first, *_), _ = passed(plant, mcr, version, {"src0": [MADE_OF[version](b"first!").frame()]})
    makes = MAKE[version](15, LEAST_MTU)
    count, odd, unsound, summed = COUNTS[version]
    plain = [*makes.plain(count), *with_checksums_that_come_to_zero(first[0])]
    corpora = {"src0": [*makes.turns(400), *plain, *makes.odd(odd), *makes.unsound(unsound)], "src1": makes.odd(summed)}
    in_kernel = mcr.stats()["kernel_path"]["matched"]
    by_kernel, sums = passed(plant, mcr, version, corpora)
    in_kernel = mcr.stats()["kernel_path"]["matched"] - in_kernel
    assert in_kernel > 0.8 * sum(each.datagrams for each in plain), "plain ones wake nobody"
    assert sums["totals"][".ingress.kernel_drops"] == sums["totals"][".ingress.buf_exhaust"] == 0
    assert version == 6 or sum(frame[40:42] == b"\0\0" for frame in by_kernel[0]) > count / 10
    for option in ("gso=off", "gso=64"):
        for rule in rules:
            mcr.ctl("change", "--rule-id", rule, "--outputs", ",".join(f"{each}:{option}" for each in outputs))
        wait_until(lambda: {each["path"] for each in mcr.call("list")} == {"worker"}, "workers forward")
        by_worker, others = passed(plant, mcr, version, corpora)
        assert others == sums, last_errors(mcr)
        for ours, theirs in zip(by_kernel, by_worker, strict=True):
            for kernel, worker in zip(ours, theirs, strict=True):
                assert without_id(with_sum(kernel)) == without_id(worker)
