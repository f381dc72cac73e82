"""Rules of every kind and frames of every kind, by each engine: the same bytes leave, and the same is counted.

What is to come out is stated by `matrix_rules.py` and `matrix_frames.py`, so all engines can't be wrong alike.
"""

import os
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, product
from pathlib import Path
from typing import Any

import attrs
import pytest

from corpus import FRAGMENT, UDP, add_up
from fragments import with_checksum
from ipv6_addresses import speak_ipv6
from lab import Namespace
from matrix_frames import Sent, Unsound, beside, flows
from matrix_rules import BY_NAME, FREE_PORTS, MTU, OWN6, RULES, SILENT_HOST, Macs, To
from mcr_process import PATIENCE, Mcr, wait_until
from raw_frames import wait_for_raw, without_checksum_offload
from seccomp import WITHOUT_IO_URING
from test_identity import flat, on_one_processor, packet_socket
from test_trains import waiting_together
from test_vlans import AUXDATA, PACKET_AUXDATA, SO_RCVBUFFORCE, SOL_PACKET, TP_STATUS_VLAN_VALID, frames_in
from topology import MakeMcr, Plant, need_tcx

ETH_P_ALL = 3
LAST = b"the last of all"
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
SILENT = "silent host"
PLAIN, RIGHT = 0x45, 0xFFFF
RAW_SOCKETS = "groups, out0", "hosts, out0", "groups, out1", "ports, out0"
SOME = 100  # frames that a machine has to say of itself


@attrs.frozen
class Engine:
    """A way to forward.

    Attributes:
        why: the workers do all of it, and the relay says so.
        workers: how many there are.
        has_io_uring: or they poll.
        tags: whether frames can have tags.
        trains: options of outputs that it is tried with, one after the other: with trains, and without.
    """

    why: str = ""
    workers: int = 1
    has_io_uring: bool = True
    tags: bool = True
    trains: tuple[str, ...] = ("",)


WITHOUT_TRAINS = ":gso=off"
ENGINES = {
    "kernel": Engine(),
    "io_uring": Engine("MCR_KERNEL_PATH=off", trains=("", WITHOUT_TRAINS)),
    "poll": Engine("MCR_KERNEL_PATH=off", has_io_uring=False, trains=(WITHOUT_TRAINS,)),
    "two workers": Engine("MCR_KERNEL_PATH=off", workers=2, trains=(WITHOUT_TRAINS,)),
    "two workers that poll": Engine("MCR_KERNEL_PATH=off", workers=2, has_io_uring=False),
    "UDP sockets": Engine("MCR_RAW_SEND=0", tags=False),
}
"""Any two of io_uring or poll, one worker or two, trains or none are together once."""

OF_WORKERS = frozenset(to.place[1] for rule in RULES if rule.why for to in rule.outputs)
SENT = "submitted", "sent", "errors", "bytes"

Taken = tuple[str, int | None, bytes]
"""Interface, VLAN, frame."""
Wire = dict[tuple[Any, ...], list[bytes]]
"""Frames in order, by what they have in common; first the port that they go to."""


class Wires:
    """What arrives at the receiver, and what the relay's machine sends to end it."""

    def __init__(self, plant: Plant, stack: ExitStack) -> None:
        self._taps = {f"out{i}": self._open(plant.receiver, f"rx{i}", stack) for i in range(3)}
        self._ends = {f"out{i}": self._open(plant.relay, f"out{i}", stack, protocol=0) for i in range(3)}
        inside = self._open(plant.relay, "in0", stack, protocol=0)
        several = {**self._ends, **{f"rx{i}": self._taps[f"out{i}"] for i in range(3)}, "in0": inside}
        self.macs: Macs = {name: each.getsockname()[4] for name, each in several.items()}

    def _open(
        self, namespace: Namespace, interface: str, stack: ExitStack, *, protocol: int = ETH_P_ALL
    ) -> socket.socket:
        with namespace.entered():
            opened = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        opened.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        opened.bind((interface, protocol))
        opened.settimeout(PATIENCE)
        return opened

    def take(self) -> Iterator[Taken]:
        """All that has come: interface, VLAN, frame."""
        for interface, tap in self._taps.items():
            ahead = self._end(self._ends[interface])
            while ahead:
                data, extra, *_ = tap.recvmsg(2048, 128)
                ahead -= data.endswith(LAST)
                (auxiliary,) = (value for level, kind, value in extra if (level, kind) == (SOL_PACKET, PACKET_AUXDATA))
                status, *_, tag, _ = AUXDATA.unpack(auxiliary)
                if is_udp(data):
                    yield interface, tag & 0xFFF if status & TP_STATUS_VLAN_VALID else None, data

    def _end(self, end: socket.socket) -> int:
        """Send the last frame from each processor, as each has a backlog of its own that those behind it wait in."""
        processors = os.sched_getaffinity(0)
        try:
            for each in processors:
                os.sched_setaffinity(0, {each})
                end.send(bytes(12) + b"\x88\xb5" + LAST)
        finally:
            os.sched_setaffinity(0, processors)
        return len(processors)


def is_udp(frame: bytes) -> bool:
    if frame[12:14] == IPV4:
        return frame[23] == UDP
    return frame[12:14] == IPV6 and frame[20] in (UDP, FRAGMENT)


def header_of(frame: bytes) -> bytes:
    """Of what is the same in all fragments, and whole."""
    if frame[12:14] == IPV4:
        assert add_up(frame[14:34]) == 0xFFFF, "IP's checksum is right"
        return frame[:16] + frame[18:20] + frame[22:24] + frame[26:34]
    return frame[:18] + frame[21:54] + frame[58:62]


def put_together(came: Iterable[Taken]) -> Iterator[Taken]:
    """What came in fragments as if it had not: how it is cut is the kernel's to choose."""
    waiting: defaultdict[tuple[object, ...], dict[int, bytes]] = defaultdict(dict)
    for interface, vlan, frame in came:
        assert len(frame) <= 14 + MTU[interface]
        is_ipv4 = frame[12:14] == IPV4
        place = int.from_bytes(frame[20:22]) & 0x3FFF if is_ipv4 else int.from_bytes(frame[56:58])
        if (is_ipv4 and not place) or (not is_ipv4 and frame[20] != FRAGMENT):
            yield interface, vlan, frame
            continue
        at, more = ((place & 0x1FFF) * 8, place & 0x2000) if is_ipv4 else (place & ~7, place & 1)
        parts = waiting[interface, vlan, header_of(frame)]
        parts[at] = frame[34:] if is_ipv4 else frame[62:]
        if not more:
            data = b"".join(parts[each] for each in sorted(parts))
            assert len(data) == at + len(parts[at]), "none is missing"
            parts.clear()
            if is_ipv4:
                length = struct.pack("!H", 20 + len(data))
                yield (
                    interface,
                    vlan,
                    frame[:14] + with_checksum(frame[14:16] + length + bytes(4) + frame[22:34]) + data,
                )
            else:
                yield interface, vlan, frame[:18] + struct.pack("!HB", len(data), UDP) + frame[21:54] + data


def check_sums(frame: bytes, *, may_lack: bool) -> None:
    """They are right. Where a datagram came without UDP's the kernel path leaves it so."""
    is_ipv4 = frame[12:14] == IPV4
    ip, udp = (frame[14:34], frame[34:]) if is_ipv4 else (frame[14:54], frame[54:])
    assert frame[14] == PLAIN or not is_ipv4
    assert not is_ipv4 or add_up(ip) == RIGHT
    addresses = ip[12:] if is_ipv4 else ip[8:]
    is_right = add_up(addresses + struct.pack("!HH", UDP, len(udp)) + udp + bytes(len(udp) % 2)) == RIGHT
    assert (is_right and any(udp[6:8])) or (is_ipv4 and may_lack and not any(udp[6:8])), frame.hex()


def in_order(came: Iterable[Taken]) -> Wire:
    """Frames by interface, VLAN, where they go to and whom they are from, without what may differ.

    IP's identification is the kernel's, and so is a port that nobody has asked for, and the checksums of both.
    """
    wire: Wire = defaultdict(list)
    for interface, vlan, frame in came:
        is_ipv4 = frame[12:14] == IPV4
        ip, udp = (frame[14:34], frame[34:]) if is_ipv4 else (frame[14:54], frame[54:])
        port = int.from_bytes(udp[2:4])
        own = bytes(2) if port in FREE_PORTS else udp[:2]
        same = ip[:4] + bytes(2) + ip[6:10] + bytes(2) + ip[12:] if is_ipv4 else ip
        data = frame[:14] + same + own + udp[2:6] + bytes(2) + udp[8:]
        wire[port, interface, vlan, ip[-8:], own, udp[8:9]].append(data)
    return wire


def without_df(wire: Wire, ports: frozenset[int] | None = None) -> Wire:
    """The same, where datagrams of IPv4 to these ports, or to any, may be cut on their way or may not.

    IP leaves out DF where a worker has it send a train that is longer than the MTU.
    """
    return {
        key: [
            each[:20] + b"\0\0" + each[22:] if each[12:14] == IPV4 and (ports is None or key[0] in ports) else each
            for each in frames
        ]
        for key, frames in wire.items()
    }


def expected(sent: Sequence[Sent], macs: Macs, *, tags: bool) -> tuple[Wire, dict[str, Any], list[set[str | None]]]:
    """What leaves, what is counted, and which errors each output may have had last."""
    came: list[Taken] = []
    outputs: defaultdict[tuple[str, To], Counter[str]] = defaultdict(Counter)
    errors: defaultdict[tuple[str, To], set[str | None]] = defaultdict(lambda: {None})
    causes, matched = Counter[str](), Counter[str]()
    for each in sent:
        causes[each.cause] += each.number
        matched[each.rule] += len(each.came)
        for datagram, to in product(each.came, BY_NAME[each.rule].outputs if each.rule else ()):
            left = to.leaves(datagram, BY_NAME[each.rule].offset(datagram), macs, tags=tags)
            counts = outputs[each.rule, to]
            counts["submitted"] += 1
            if isinstance(left, str):
                counts["errors"] += 1
                errors[each.rule, to].add(left)
                continue
            counts["sent"] += 1
            counts["bytes"] += len(datagram.payload)
            if to.place[0] != SILENT_HOST:
                came.append((to.place[2], to.vlan, left.frame().data))
    del causes[""], matched[""]
    in_all: Counter[str] = sum(outputs.values(), Counter())
    unsound = causes.total() - causes["no_match"]
    ingress = {"matched": matched.total(), "no_match": causes["no_match"], "parse_err": unsound}
    return (
        in_order(came),
        {
            "ingress": {"recv": sum(ingress.values()), "buf_exhaust": 0, "kernel_drops": 0} | ingress,
            "causes": {name: count for name, count in causes.items() if name != "no_match"},
            "egress": {name: in_all[name] for name in SENT},
            "matched": {rule.name: matched[rule.name] for rule in RULES},
            "outputs": {
                rule.name: [{name: outputs[rule.name, to][name] for name in SENT} for to in rule.outputs]
                for rule in RULES
            },
        },
        [errors[rule.name, to] for rule in RULES for to in rule.outputs],
    )


def counted(stats: dict[str, Any]) -> dict[str, Any]:
    """The same of what the relay has counted."""
    ingress = stats["ingress"]
    names = "recv", "matched", "no_match", "parse_err", "buf_exhaust", "kernel_drops"
    return {
        "ingress": {name: ingress[name] for name in names},
        "causes": {name: count for name, count in ingress["parse_errors"].items() if count},
        "egress": {name: stats["egress"][name] for name in SENT},
        "matched": {rule["name"]: rule["matched"] for rule in stats["rules"]},
        "outputs": {
            rule["name"]: [{name: each[name] for name in SENT} for each in rule["outputs"]] for rule in stats["rules"]
        },
    }


def everything(stats: dict[str, Any]) -> dict[str, int]:
    """All counters but those that say which engine it was."""
    return flat({name: each for name, each in stats.items() if name not in ("workers", "kernel_path")})


def difference(ours: Wire, theirs: Wire) -> list[str]:
    """What is not the same: the first few."""
    found = []
    for key in ours.keys() | theirs.keys():
        one, other = ours.get(key, []), theirs.get(key, [])
        if one != other:
            pairs = zip([*one, b""], [*other, b""], strict=False)
            first = next((" ".join(each[:70].hex() for each in pair) for pair in pairs if pair[0] != pair[1]), "")
            found.append(f"{key}: {len(one)} and {len(other)} frames: {first}")
    return found[:10]


def portions(macs: Macs) -> list[list[Sent]]:
    """First one of each, so that flows move to the kernel path; then what that forwards, and all the rest."""
    several = [*flows(macs)]
    by_kernel, by_workers = ([flow for flow in several if bool(flow.rule.why) == why] for why in (False, True))
    plain = [each for flow in by_kernel for each in flow.plain()]
    slow = [each for flow in by_workers for each in flow.plain()]
    odd = [each for flow in several for each in flow.odd()]
    return [[*beside(macs)], [*plain, *beside(macs), *slow], odd, [*Unsound(macs).all()]]


def prepare(plant: Plant) -> None:
    """IPv6, gateways, and an output that carries less."""
    plant.relay.ip(f"link set dev out1 mtu {MTU['out1']}")
    for out in MTU:
        without_checksum_offload(plant.relay, out)
    for name, address in {"in0": "2001:db8::2", **OWN6}.items():
        speak_ipv6(plant.relay, name, f"{address}/64")
    speak_ipv6(plant.receiver, "rx0", "2001:db8:1::2/64")
    plant.relay.ip("route add 203.0.113.0/24 via 198.18.1.2", "route add 239.3.0.0/16 via 198.18.1.2 dev out0")
    plant.relay.ip("-6 route add 2001:db8:77::/64 via 2001:db8:1::2")


def settle(mcr: Mcr, engine: Engine, options: str) -> None:
    """Wait until it forwards by this engine, and says so."""
    rules = {rule.name: rule for rule in RULES}

    def what_is_not_so() -> list[str]:
        listed = mcr.call("list")
        return [f"{each}" for each in listed if not is_so(each)] if len(listed) == len(RULES) else ["too few"]

    def is_so(now: dict[str, Any]) -> bool:
        rule = rules[now["name"]]
        has_less = not engine.tags and any(to.vlan for to in rule.outputs)
        states = {"degraded" if has_less else rule.state} | ({"degraded"} if rule.name == SILENT else set())
        why = engine.why or rule.why
        path = "worker" if why else "kernel"
        is_asked = not options or "auto" not in {each["gso"] for each in now["outputs"]}
        return is_asked and now["state"] in states and now["path"] == path and why in (now["path_reason"] or "")

    try:
        wait_until(lambda: not what_is_not_so(), "each rule takes the path that it should")
    except AssertionError:
        pytest.fail(f"not as it should be: {what_is_not_so()}")


def start(plant: Plant, make_mcr: MakeMcr, engine: Engine, name: str, file: Path) -> Mcr:
    """A daemon that forwards so."""
    write(file, engine.trains[0])
    denying = () if engine.has_io_uring else WITHOUT_IO_URING
    mcr = make_mcr(plant.relay, name.replace(" ", "-"), prefix=["env", *engine.why.split(), *denying])
    mcr.start(engine.workers, "--config", str(file))
    if not engine.why:
        need_tcx(mcr)
    if engine.tags:
        for out in MTU:
            wait_for_raw(mcr, out)
    assert {each["io"] for each in mcr.wait_for_workers()} == {"io_uring" if engine.has_io_uring else "poll"}
    return mcr


def write(file: Path, options: str) -> None:
    file.write_text("\n".join(rule.toml(options) for rule in RULES))


def passed(plant: Plant, mcr: Mcr, wires: Wires, several: Sequence[Sequence[Sent]], *, by_kernel: bool) -> Wire:
    """Send it all; what leaves."""
    arrived, came_before = mcr.stats()["ingress"]["recv"], frames_in(plant.relay, "in0")
    with packet_socket(plant.source, "src0", 4, sends=True) as source:
        for portion in several:
            with ExitStack() as stack:
                if not by_kernel:
                    stack.enter_context(waiting_together(mcr))
                stack.enter_context(on_one_processor())
                for frame in chain.from_iterable(each.frames for each in portion):
                    source.send(frame.header + frame.data)
            arrived += sum(len(each.came) or each.number * bool(each.cause) for each in portion)
            mcr.check_counters(arrived=arrived)
    frames = sum(len(each.frames) for portion in several for each in portion)
    assert frames_in(plant.relay, "in0") - came_before < frames + SOME, "super-frames have come in whole"
    whole = [*put_together(wires.take())]
    for _, _, data in whole:
        check_sums(data, may_lack=by_kernel)
    ids = [data[18:20] for _, _, data in whole if data[12:14] == IPV4 and not data[20] & 0x40 and any(data[18:20])]
    assert len({*ids}) > len(ids) / 2, "what routers may cut can be put together"
    return in_order(whole)


def subtracted(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """What has been counted meanwhile."""
    return {name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name, 0)}


def test_each_engine_sends_and_counts_the_same(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """Each rule takes the path that it should; the bytes and counters are those expected, and those of the kernel path.

    Without raw frames nothing can have a tag: these outputs are degraded, and what is due counts as errors.
    """
    prepare(plant)
    file = tmp_path / "rules.toml"
    with ExitStack() as stack:
        wires = Wires(plant, stack)
        several = portions(wires.macs)
        sent = [*chain.from_iterable(several)]
        should = {tags: expected(sent, wires.macs, tags=tags) for tags in (True, False)}
        by_kernel: tuple[Wire, dict[str, int]] | None = None
        for name, engine in ENGINES.items():
            mcr = start(plant, make_mcr, engine, name, file)
            before = mcr.stats()
            for number, options in enumerate(engine.trains):
                if number:
                    write(file, options)
                    mcr.call("config.apply")
                settle(mcr, engine, options)
                came = passed(plant, mcr, wires, several, by_kernel=not engine.why)
                now = mcr.stats()
                wire, counts, errors = should[engine.tags]
                loose = frozenset[int]() if options else None if engine.why else OF_WORKERS
                assert difference(without_df(came, loose), without_df(wire, loose)) == [], (name, options)
                assert subtracted(flat(counted(before)), flat(counted(now))) == subtracted({}, flat(counts)), name
                check_errors(now, errors)
                same = without_df(came), subtracted(everything(before), everything(now))
                by_kernel = by_kernel or same
                assert not engine.tags or same == by_kernel, (name, options)
                before = now
            if not engine.why:
                check_words(mcr, now)
                check_sockets(plant.relay)
            in_kernel = now["kernel_path"]["matched"]
            plain = sum(len(each.came) for each in several[1] if not BY_NAME[each.rule].why)
            assert in_kernel > 0.8 * plain if not engine.why else in_kernel == 0
            mcr.stop()


def check_errors(stats: dict[str, Any], errors: Sequence[set[str | None]]) -> None:
    """Each output's newest is one that it should have had."""
    outputs = [each for rule in stats["rules"] for each in rule["outputs"]]
    for each, those in zip(outputs, errors, strict=True):
        assert each["last_error"] in those, each
        assert bool(each["last_error"]) == bool(each["errors"]), each


def check_words(mcr: Mcr, stats: dict[str, Any]) -> None:
    """What an operator is told of it."""
    shown = " ".join(mcr.ctl("stats").stdout.split())
    ingress = stats["ingress"]
    assert f"parse_err {ingress['parse_err']} not a valid UDP datagram for this machine" in shown
    wrong = ingress["parse_errors"]["checksum"]
    assert f"checksum {wrong} of parse_err: the checksum of the IP header or of UDP is wrong" in shown
    assert "fragment_evicted" not in shown
    (to_all,) = (each for each in mcr.call("list") if each["name"] == "to all")
    what = "198.18.1.255 is the broadcast address of 198.18.1.0/24: every host there gets what is sent to it"
    assert to_all["warnings"] == [what]


def check_sockets(relay: Namespace) -> None:
    """There are few raw ones of UDP, as the kernel looks through all: for groups and for hosts, and for kept ports."""
    with relay.entered():
        assert Path("/proc/thread-self/net/raw").read_text().count(":0011 ") == len(RAW_SOCKETS)
