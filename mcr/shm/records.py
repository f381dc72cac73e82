"""The records of the two rings: commands encoded, events decoded. Layouts are those of ``native/shm_abi.h``."""

import functools
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import not_
from typing import Any, NamedTuple

import attrs

from mcr._native import ffi, lib
from mcr.model.columns import make_all, setters_of
from mcr.model.flow import Address, Flow
from mcr.model.limits import DEFAULT_TRAIN
from mcr.model.log import Facility, Level, LogLevels
from mcr.shm.flows import address_parts, family_of, flow_bytes

_HEAD = struct.Struct("=II")  # struct mcr_record
_ALIGNMENT = 8
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}  # of whole numbers, by their bytes

STOP: int = lib.MCR_REC_STOP
"""Type of the command that `stop` makes."""


@attrs.frozen
class Command:
    """One record for the rule ring.

    Attributes:
        type: ``MCR_REC_…``.
        body: the record's body.
        sockets: one per worker, in the order of their ids, if the record comes with a descriptor.
        slot: of the thing that it is about, among all of its kind.
        record: its bytes in the ring; made once, since it is written for each worker and each start of one.
    """

    type: int
    body: bytes = b""
    sockets: tuple[socket.socket, ...] = attrs.field(default=(), eq=False)
    slot: int = 0
    record: bytes = attrs.field(init=False, repr=False)

    @record.default
    def _encode(self) -> bytes:
        padding = -len(self.body) % _ALIGNMENT
        return _HEAD.pack(_HEAD.size + len(self.body) + padding, self.type) + self.body + bytes(padding)


_COMMAND = setters_of(Command, *attrs.fields_dict(Command))


class _Layout:
    """Makes the bytes of a struct. cffi does so, too, one field after the other: there may be thousands of records."""

    def __init__(self, ctype: str) -> None:
        fields = sorted(ffi.typeof(f"struct {ctype}").fields, key=lambda each: each[1].offset)
        self.names = [name for name, _ in fields]
        self.known = frozenset(self.names)
        self.rooms = [(name, ffi.sizeof(field.type)) for name, field in fields if field.type.kind != "primitive"]
        self.empty = [0 if field.type.kind == "primitive" else b"" for _, field in fields]
        codes, end = ["="], 0
        for _, field in fields:
            codes += [f"{field.offset - end}x", _code(field.type)]
            end = field.offset + ffi.sizeof(field.type)
        self.packed = struct.Struct("".join((*codes, f"{ffi.sizeof(f'struct {ctype}') - end}x")))


def _code(ctype: Any) -> str:
    """What the struct module calls it: a whole number, or the bytes of an array or a struct, which may be fewer."""
    size = ffi.sizeof(ctype)
    return _CODES[size] if ctype.kind == "primitive" else f"{size}s"


_layout = functools.cache(_Layout)


def _packer(ctype: str, codes: str, names: tuple[str, ...]) -> struct.Struct:
    """Makes the bytes of a struct of which these fields alone are not 0, in these codes of the struct module."""
    fields, end, parts = dict(ffi.typeof(f"struct {ctype}").fields), 0, ["="]
    for name, code in zip(names, codes.split(), strict=True):
        parts += [f"{fields[name].offset - end}x", code]
        end = fields[name].offset + struct.calcsize(f"={code}")
    return struct.Struct("".join((*parts, f"{ffi.sizeof(f'struct {ctype}') - end}x")))


# Of these there may be thousands: their fields are given in their order (tests/unit/test_records.py).
_RULE, _OUTPUT = _layout("mcr_rec_rule"), _layout("mcr_rec_output")
_FLOW_BYTES: int = ffi.sizeof("struct mcr_flow")
_OUTPUT_BYTES: int = ffi.sizeof("struct mcr_rec_output")
_PLAIN_OUTPUT = _packer(
    "mcr_rec_output",
    "Q I I 4s 4s H H B I",
    ("tag", "output", "egress", "address", "source", "port", "max_train", "no_carrier", "family"),
)
_AF_INET = int(socket.AF_INET)


def _body(ctype: str, **fields: Any) -> bytes:
    """A struct with these fields. The others are 0.

    Raises:
        TypeError: it has no such field, or less room for the bytes of one.
    """
    layout = _layout(ctype)
    if not fields.keys() <= layout.known:
        raise TypeError(f"struct {ctype} has no {', '.join(sorted(fields.keys() - layout.known))}")
    for name, room in layout.rooms:
        if name in fields and len(fields[name]) > room:
            raise TypeError(f"struct {ctype}: {name} has room for {room} bytes, not for {len(fields[name])}")
    return layout.packed.pack(*map(fields.get, layout.names, layout.empty))


def network_address(address: Address) -> int:
    """Of IPv4: the 32-bit field whose bytes in memory are in network order."""
    return int.from_bytes(address.packed, sys.byteorder)


def capture_put(
    capture: int, serial: int, ring: tuple[int, int], sockets: tuple[socket.socket, ...], *, offloads: bool
) -> Command:
    """Read this capture ring.

    Args:
        capture: its slot.
        serial: differs from that of the slot's last capture.
        ring: bytes of its slots, and how many there are.
        sockets: one per worker.
        offloads: whether the kernel says before each frame how to cut it.
    """
    frame_size, frame_count = ring
    body = _body(
        "mcr_rec_capture",
        capture=capture,
        serial=serial,
        frame_size=frame_size,
        frame_count=frame_count,
        offloads=offloads,
    )
    return Command(lib.MCR_REC_CAPTURE_PUT, body, sockets, slot=capture)


def capture_drop(capture: int) -> Command:
    """Read what waits in this capture ring, then let it go."""
    return Command(lib.MCR_REC_CAPTURE_DROP, _body("mcr_rec_capture", capture=capture), slot=capture)


def egress_put(
    egress: int,
    mtu: int,
    sockets: tuple[socket.socket, ...],
    common: int = lib.MCR_NO_EGRESS,
    *,
    ipv6: bool = False,
) -> Command:
    """Send to this output interface or neighbour by this socket; `mtu` in bytes.

    `common` is the slot of one that is used in its place, while that has room. `ipv6`: the socket is of IPv6.
    """
    body = _body("mcr_rec_egress", egress=egress, mtu=mtu, common=common, ipv6=ipv6)
    return Command(lib.MCR_REC_EGRESS_PUT, body, sockets, slot=egress)


def egress_drop(egress: int) -> Command:
    """Let an output interface's socket go."""
    return Command(lib.MCR_REC_EGRESS_DROP, _body("mcr_rec_egress", egress=egress), slot=egress)


def raw_put(
    egress: int, mtu: int, mac: bytes, sockets: tuple[socket.socket, ...], *, tagged_only: bool = False
) -> Command:
    """Send raw frames by this AF_PACKET socket to outputs that have a source on this output interface.

    `tagged_only`: to those in VLANs; to the others none.
    """
    body = _body("mcr_rec_raw", egress=egress, mtu=mtu, mac=mac, tagged_only=tagged_only)
    return Command(lib.MCR_REC_RAW_PUT, body, sockets, slot=egress)


def raw_drop(egress: int) -> Command:
    """Send no more raw frames by an output interface."""
    return Command(lib.MCR_REC_RAW_DROP, _body("mcr_rec_egress", egress=egress), slot=egress)


class OutputPlace(NamedTuple):
    """One output of a rule: its slot and tag, its interface's egress slot, its destination.

    At most `max_train` datagrams are handed to the kernel together; 1: no UDP segmentation. `source` is the address
    that raw frames to it come from; None: it gets no raw frames. Without `carrier` its datagrams fail. A `ttl` of 0 is
    the usual one; what the output `keeps` (MCR_KEEP_…) takes its place. `asked_source` is the address that others come
    from; None: IP chooses it. With a `vlan` it gets raw frames alone, tagged, from `source_port` unless that is 0.
    """

    output: int
    tag: int
    egress: int
    address: Address
    port: int
    max_train: int
    source: Address | None = None
    carrier: bool = True
    ttl: int = 0
    dscp: int = 0
    keeps: int = 0
    asked_source: Address | None = None
    vlan: int = 0
    source_port: int = 0


def rule_put(
    *,
    tag: int,
    rule: int,
    capture: int,
    flows: Sequence[Flow],
    outputs: Iterable[OutputPlace | bytes],
    first_port: int = 0,
    groups: int = 1,
) -> Command:
    """Forward what arrives on `capture` of these flows to `outputs`.

    Of a range, which may have no flows, `first_port` and the number of `groups` say the place of each. An output may
    be what `plain_outputs` has made.
    """
    tail = b"".join([each if isinstance(each, bytes) else _output(each) for each in outputs])
    first, *further = [flow_bytes(flow, capture) for flow in flows] or [bytes(_FLOW_BYTES)]
    head = _RULE.packed.pack(
        tag, first, rule, len(tail) // _OUTPUT_BYTES, len(further), socket.htons(first_port), groups - 1
    )
    return Command(lib.MCR_REC_RULE_PUT, b"".join((head, tail, *further)), slot=rule)


def plain_rules_put(
    places: Sequence[tuple[int, int]],
    flows: Iterable[bytes],
    ports: Iterable[int],
    outputs: Sequence[Sequence[bytes]],
) -> list[Command]:
    """The same for rules of one flow each, all of whose outputs `plain_outputs` has made: there may be thousands.

    Of each: its slot and tag, the flow, the first port, and the outputs.
    """
    slots, tags = zip(*places, strict=True) if places else ((), ())
    columns = tags, flows, slots, map(len, outputs), repeat(0), map(socket.htons, ports), repeat(0)
    heads = map(_RULE.packed.pack, *columns)
    bodies = [b"".join((head, *each)) for head, each in zip(heads, outputs, strict=True)]
    kind = lib.MCR_REC_RULE_PUT
    records = map(bytes.__add__, map(_HEAD.pack, [_HEAD.size + len(each) for each in bodies], repeat(kind)), bodies)
    return make_all(Command, _COMMAND, len(bodies), repeat(kind), bodies, repeat(()), slots, records)  # without padding


def plain_outputs(
    places: Sequence[tuple[int, int]],
    egress: Sequence[tuple[int, bool]],
    to: Sequence[tuple[bytes, int]],
    sources: Iterable[bytes],
) -> Iterator[bytes]:
    """Outputs of IPv4 for which nothing is asked: as `OutputPlace`, of which there may be thousands.

    Args:
        places: slots and tags.
        egress: slots that they leave by, and whether these have carrier.
        to: addresses and ports.
        sources: addresses that they come from; none: one gets no raw frames.
    """
    slots, tags = zip(*places, strict=True) if places else ((), ())
    leave_by, carriers = zip(*egress, strict=True) if egress else ((), ())
    addresses, ports = zip(*to, strict=True) if to else ((), ())
    numbers = map(socket.htons, ports), repeat(DEFAULT_TRAIN), map(not_, carriers), repeat(_AF_INET)
    return map(_PLAIN_OUTPUT.pack, tags, slots, leave_by, addresses, sources, *numbers)


def plain_output(
    place: tuple[int, int], egress: int, address: bytes, port: int, source: bytes, *, carrier: bool
) -> bytes:
    """One of them."""
    (slot, tag), number = place, socket.htons(port)
    return _PLAIN_OUTPUT.pack(tag, slot, egress, address, source, number, DEFAULT_TRAIN, not carrier, _AF_INET)


def _output(place: OutputPlace) -> bytes:
    address, address_rest = address_parts(place.address)
    asked, asked_rest = address_parts(place.asked_source) if place.asked_source else (0, b"")
    return _OUTPUT.packed.pack(
        place.tag,
        place.output,
        place.egress,
        address,
        network_address(place.source) if place.source else 0,
        socket.htons(place.port),
        place.max_train,
        not place.carrier,
        place.ttl,
        place.dscp << 2,
        place.keeps,
        asked,
        place.vlan,
        socket.htons(place.source_port),
        family_of(place.address),
        address_rest,
        asked_rest,
    )


def rule_drop(rule: int) -> Command:
    """Forget the rule in this slot."""
    return Command(lib.MCR_REC_RULE_DROP, _body("mcr_rec_rule", rule=rule), slot=rule)


def generation(number: int) -> Command:
    """Everything before this record makes up generation `number`."""
    return Command(lib.MCR_REC_GENERATION, _body("mcr_rec_generation", generation=number))


def levels(log_levels: LogLevels) -> Command:
    """Log at these levels."""
    return Command(lib.MCR_REC_LEVELS, bytes(int(level) for level in log_levels.levels))


def own(keys: bytes) -> Command:
    """Drop datagrams with one of these sources: this machine sent them. `mcr.net.own` finds the sources."""
    count = len(keys) // ffi.sizeof("struct mcr_rec_own_key")
    return Command(lib.MCR_REC_OWN, _body("mcr_rec_own", count=count) + keys)


def refused(flows: Iterable[tuple[Flow, int, int, float]]) -> Command:
    """Drop these flows, though rules for any source take them, and no others.

    Each with the slot of its capture, its place among the counters of the segment, and the moment by CLOCK_MONOTONIC,
    in seconds, at which it is refused no longer.
    """
    tail = [
        _body("mcr_refusal", flow=flow_bytes(flow, capture), place=place, until_ns=int(until * 1e9))
        for flow, capture, place, until in flows
    ]
    return Command(lib.MCR_REC_REFUSED, b"".join((_body("mcr_rec_refused", count=len(tail)), *tail)))


def stop() -> Command:
    """Send what has arrived, then return."""
    return Command(STOP)


@attrs.frozen
class Ack:
    """A worker forwards by this generation of the rules."""

    generation: int


@attrs.frozen
class Sample:
    """A worker has received another round number of packets: a good moment for a log line."""


@attrs.frozen
class LogRecord:
    """One line of a worker's log, not worded yet; see `mcr.logs.worker_records`.

    It stands for `repeats` occurrences, with `subjects` outputs (or whatever it is about); `args` are the newest's.
    """

    time_ns: int
    first_ns: int
    repeats: int
    subjects: int
    code: int
    level: Level
    facility: Facility
    args: tuple[int, int, int]


Event = Ack | Sample | LogRecord


def _view(ctype: str, body: bytes) -> Any:
    if len(body) < ffi.sizeof(f"struct {ctype}"):
        raise ValueError(f"{ctype}: {len(body)} bytes are too few")
    return ffi.from_buffer(f"struct {ctype} *", body, require_writable=False)


def decode_event(record_type: int, body: bytes) -> Event:
    """Turn a record of the event ring into a value.

    Raises:
        ValueError: the record is not one that a sound worker writes.
    """
    if record_type == lib.MCR_REC_ACK:
        return Ack(_view("mcr_rec_generation", body).generation)
    if record_type == lib.MCR_REC_SAMPLE:
        return Sample()
    if record_type == lib.MCR_REC_LOG:
        log = _view("mcr_rec_log", body)
        level, facility = Level(log.level), Facility(log.facility)
        return LogRecord(
            log.time_ns, log.first_ns, log.repeats, log.subjects, log.code, level, facility, tuple(log.args)
        )
    raise ValueError(f"unknown event {record_type}")
