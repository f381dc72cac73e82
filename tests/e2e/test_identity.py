"""Both paths send the same bytes and count the same: ten thousand frames of every kind through each."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from corpus import GROUP, PORT, Corpus, Datagram, Frame, add_up
from lab import Namespace
from mcr_process import Mcr, wait_until
from raw_frames import without_checksum_offload
from topology import MakeMcr, Plant, need_tcx

SOL_PACKET, PACKET_VNET_HDR = 263, 15
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
LAST = b"the last of all"
NO_ID = bytes(2)
LEAST_MTU = 1400
PORTION = 500  # frames at once: a worker that waits for a processor has room for them
PLAIN, ODD, UNSOUND, SUMMED = 7000, 500, 500, 2000
"""Frames of each kind; the last come out of a tunnel."""


@contextmanager
def packet_socket(namespace: Namespace, interface: str, *, sends: bool) -> Iterator[socket.socket]:
    """Whole frames that arrive; or that are to leave, each behind how it is to be treated."""
    with namespace.entered():
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0 if sends else socket.htons(0x0800))
    with opened:
        if sends:
            opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE if sends else SO_RCVBUFFORCE, 256 << 20)
        opened.bind((interface, 0 if sends else 0x0800))
        opened.settimeout(10)
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


def received(came: socket.socket) -> Iterator[bytes]:
    """What has come out, up to the last of a portion."""
    frame = b""
    while not frame.endswith(LAST):
        frame = came.recv(2048)
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


def with_sum(frame: bytes) -> bytes:
    """With a UDP checksum, where there is none."""
    if frame[40:42] != b"\0\0":
        return frame
    size = 14 + struct.unpack_from("!H", frame, 16)[0]
    pseudo = frame[26:34] + struct.pack("!HH", 17, size - 34)
    total = add_up(pseudo + frame[34:size] + bytes(size % 2))
    return frame[:40] + struct.pack("!H", 0xFFFF ^ total or 0xFFFF) + frame[42:]


def without_id(frame: bytes) -> bytes:
    """Without the identification, which the kernel counts in a train and where it cuts."""
    header = frame[14:18] + NO_ID + frame[20:24] + b"\0\0" + frame[26:34]
    assert add_up(frame[14:34]) == 0xFFFF, "IP's checksum is right"
    return frame[:14] + header + frame[34:]


def passed(plant: Plant, mcr: Mcr, corpora: dict[str, list[Frame]]) -> tuple[list[list[bytes]], dict[str, Any]]:
    """Have the relay forward everything. What comes out of out0 to out2 for each input, and what it has counted."""
    before = counted(mcr)
    made: list[list[bytes]] = []
    for interface, frames in corpora.items():
        with ExitStack() as stack:
            out = stack.enter_context(packet_socket(plant.source, interface, sends=True))
            wires = [stack.enter_context(packet_socket(plant.receiver, f"rx{i}", sends=False)) for i in range(3)]
            taken: tuple[list[bytes], ...] = ([], [], [])
            for first in range(0, len(frames), PORTION):
                for each in (*frames[first : first + PORTION], Datagram(LAST).frame()):
                    out.send(each.header + each.data)
                for wire, those in zip(wires, taken, strict=True):
                    those.extend(received(wire))
            made.extend(taken)
    return made, since(before, counted(mcr))


def with_checksums_that_come_to_zero(output: bytes) -> list[Frame]:
    """Datagrams whose UDP checksum becomes 0xffff, and is never 0 (RFC 768). `output`: what one is like on the wire."""
    pseudo = output[26:34] + struct.pack("!HH", 17, 14) + output[34:38] + struct.pack("!H", 14)
    made = []
    for number in range(50):
        begin = struct.pack("!HH", number, 7 * number)
        made.append(Datagram(begin + struct.pack("!H", 0xFFFF ^ add_up(pseudo + begin))).frame())
    return made


def test_both_paths_send_the_same_bytes_and_count_the_same(plant: Plant, make_mcr: MakeMcr) -> None:
    """The order is the same, too. They differ in two things: a UDP checksum of 0 stays 0 on the kernel path alone, and
    IP's identification is counted where the kernel cuts something (a super-frame, a worker's train, a long datagram),
    and where a worker has IP send a datagram.
    """
    tunnel(plant)
    plant.relay.ip(f"link set dev out1 mtu {LEAST_MTU}")
    for out in ("out0", "out1", "out2"):
        without_checksum_offload(plant.relay, out)
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=32768"]).start()
    outputs = "239.2.2.2:6000:out0", "239.2.2.3:6001:out1", "239.2.2.4:6002:out2:source=keep:ttl=dec"
    rules = [mcr.add(f"{interface}:{GROUP}:{PORT}", *outputs) for interface in ("in0", "in1")]
    need_tcx(mcr)
    wait_until(lambda: {each["path"] for each in mcr.call("list")} == {"kernel"}, "the kernel forwards")

    (first, *_), _ = passed(plant, mcr, {"src0": [Datagram(b"first!").frame()]})
    makes = Corpus(15, LEAST_MTU)
    plain = [*makes.plain(PLAIN), *with_checksums_that_come_to_zero(first[0])]
    corpora = {"src0": [*plain, *makes.odd(ODD), *makes.unsound(UNSOUND)], "src1": makes.odd(SUMMED)}
    in_kernel = mcr.stats()["kernel_path"]["matched"]
    by_kernel, sums = passed(plant, mcr, corpora)
    in_kernel = mcr.stats()["kernel_path"]["matched"] - in_kernel
    assert in_kernel > 0.8 * sum(each.datagrams for each in plain), "plain ones wake nobody"
    assert sums["totals"][".ingress.kernel_drops"] == sums["totals"][".ingress.buf_exhaust"] == 0
    assert sum(frame[40:42] == b"\0\0" for frame in by_kernel[0]) > PLAIN / 10
    for option in ("gso=off", "gso=64"):
        for rule in rules:
            mcr.ctl("change", "--rule-id", rule, "--outputs", ",".join(f"{each}:{option}" for each in outputs))
        wait_until(lambda: {each["path"] for each in mcr.call("list")} == {"worker"}, "workers forward")
        by_worker, others = passed(plant, mcr, corpora)
        assert others == sums
        for ours, theirs in zip(by_kernel, by_worker, strict=True):
            for kernel, worker in zip(ours, theirs, strict=True):
                assert without_id(with_sum(kernel)) == without_id(worker)
