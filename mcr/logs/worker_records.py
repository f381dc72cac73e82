"""The log records of the workers: words for them, and lines with the time at which they were written."""

import errno
import socket
import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from mcr._native import lib
from mcr.errors import describe_errno
from mcr.logs.logger import get_logger
from mcr.shm.records import LogRecord
from mcr.shm.segment import ENGINES


class Names(Protocol):
    """The names behind the numbers in a record."""

    def capture(self, slot: int) -> str:
        """Name of the input interface of a capture slot."""

    def rule(self, slot: int) -> str:
        """Id and name of the rule in a rule slot."""

    def output(self, slot: int) -> str:
        """Destination of an output slot."""


_CAPTURE = 0xFFFF  # of an argument that holds more than the slot of a capture

# Arguments are 64 bits wide and come from another process: each is cut to what it stands for.


def _errno(number: int) -> str:
    return describe_errno(number & 0xFFFF)


def _address(in_memory: int) -> IPv4Address:
    return IPv4Address(struct.pack("=I", in_memory & 0xFFFFFFFF))


def _address6(halves: tuple[int, ...]) -> IPv6Address:
    return IPv6Address(struct.pack("=QQ", *halves))


def _port(in_memory: int) -> int:
    return socket.ntohs(in_memory & 0xFFFF)


_PARSE_REASONS = {
    errno.EPROTONOSUPPORT: "not UDP",
    errno.EOPNOTSUPP: "a fragment that can belong to no datagram",
    errno.EEXIST: "a fragment that overlaps others, or is there already",
    errno.EMSGSIZE: "shorter than its IP header says",
    errno.EBADMSG: "malformed",
    errno.EPFNOSUPPORT: "it bears a second VLAN tag, or one that is not 802.1Q's",
}

_DROP_REASONS = {
    lib.MCR_CAUSE_CHECKSUM: "its checksum is wrong",
    lib.MCR_CAUSE_SOURCE: "no host can have this address",
    lib.MCR_CAUSE_RETURNED: "who sent it returns what others send",
    lib.MCR_CAUSE_OTHER_HOST: "it is addressed to another host's MAC",
}

_Wording = Callable[[tuple[int, int, int], Names], str]

WORDINGS: Mapping[int, _Wording] = {
    lib.MCR_LOG_STARTED: lambda a, _: (
        f"started on {ENGINES.get(a[0], a[0])}{f', without io_uring: {_errno(a[1])}' if a[1] else ''}"
    ),
    lib.MCR_LOG_LEVELS_CHANGED: lambda _, __: "log levels changed",
    lib.MCR_LOG_GENERATION_APPLIED: lambda a, _: f"generation {a[0]} applied, {a[1]} rules",
    lib.MCR_LOG_CAPTURE_ATTACHED: lambda a, names: (
        f"capturing on {names.capture(a[0])}, ring of {a[1]} slots of {a[2]} bytes"
    ),
    lib.MCR_LOG_CAPTURE_DETACHED: lambda a, names: (
        f"no longer capturing on {names.capture(a[0])}, {a[1]} packets taken from it"
    ),
    lib.MCR_LOG_CAPTURE_ERROR: lambda a, names: f"capture on {names.capture(a[0])}: {_errno(a[1])}",
    lib.MCR_LOG_RECOVERED: lambda a, names: (
        f"a worker died with {a[1]} packets from {names.capture(a[0])} in hand:"
        " they may have been sent or not, and count as errors (in_doubt)"
    ),
    lib.MCR_LOG_DRAINED: lambda _, __: "drained, stopping",
    lib.MCR_LOG_JOURNAL_BROKEN: lambda _, __: (
        "the journal of the last batch is damaged; counters may be off by that batch"
    ),
    lib.MCR_LOG_NO_MATCH: lambda a, names: f"no rule for {_address(a[1])}:{_port(a[2])} on {names.capture(a[0])}",
    lib.MCR_LOG_NO_MATCH6: lambda a, names: (
        f"no rule for [{_address6(a[1:])}]:{_port(a[0] >> 32)} on {names.capture(a[0] & _CAPTURE)}"
    ),
    lib.MCR_LOG_PARSE_ERROR: lambda a, names: (
        f"frame of {a[2]} bytes on {names.capture(a[0])} dropped: {_PARSE_REASONS.get(a[1], _errno(a[1]))}"
    ),
    lib.MCR_LOG_DROPPED: lambda a, names: (
        f"datagram from {_address(a[2])} on {names.capture(a[0])} dropped: {_DROP_REASONS.get(a[1], f'cause {a[1]}')}"
    ),
    lib.MCR_LOG_DROPPED6: lambda a, names: (
        f"datagram from {_address6(a[1:])} on {names.capture(a[0] & _CAPTURE)} dropped: "
        f"{_DROP_REASONS.get(a[0] >> 32, f'cause {a[0] >> 32}')}"
    ),
    lib.MCR_LOG_LOOP: lambda a, names: (
        f"{_address(a[1])}:{_port(a[1] >> 32)} from {_address(a[2])}, which this machine sent, comes back to"
        f" {names.capture(a[0])}: a loop; it is not forwarded again"
    ),
    lib.MCR_LOG_LOOP6: lambda a, names: (
        f"what comes to port {_port(a[0] >> 32)} from {_address6(a[1:])}, which is this machine, comes back to"
        f" {names.capture(a[0] & _CAPTURE)}: a loop; it is not forwarded again"
    ),
    lib.MCR_LOG_FORWARDED: lambda a, names: f"rule {names.rule(a[0])}: {a[2]} bytes to {a[1]} outputs",
    lib.MCR_LOG_NO_BUFFER: lambda a, names: (
        f"frame of {a[2]} bytes on {names.capture(a[0])} dropped: no buffer was free for a super-frame"
    ),
    lib.MCR_LOG_UNCUT: lambda a, names: (
        f"frame of {a[2]} bytes on {names.capture(a[0])} dropped: several datagrams in one, and this kernel does not"
        " tell how to cut them apart; have their sender do it: ethtool -K INTERFACE tx-udp-segmentation off"
    ),
    lib.MCR_LOG_TRAIN_REFUSED: lambda a, names: (
        f"{names.output(a[0])} does not take UDP segmentation ({_errno(a[1])}): datagrams leave one by one,"
        " and it is tried again each second"
    ),
    lib.MCR_LOG_NOT_CONFINED: lambda a, _: f"not confined to the system calls it needs: {_errno(a[0])}",
    lib.MCR_LOG_SEND_FAILED: lambda a, names: f"send to {names.output(a[0])} failed: {_errno(a[1])}",
}


# What a record that stands for several things stands for, where that is not interfaces.
_SUBJECTS: Mapping[int, str] = {
    lib.MCR_LOG_NO_MATCH: "flows",
    lib.MCR_LOG_NO_MATCH6: "flows",
    lib.MCR_LOG_FORWARDED: "rules",
    lib.MCR_LOG_SEND_FAILED: "outputs",
    lib.MCR_LOG_TRAIN_REFUSED: "outputs",
}


def kind(record: LogRecord) -> str:
    """Of which kind it is, for `mcr.logs.limit`. All codes that no sound worker writes are one."""
    return f"code {record.code}" if record.code in WORDINGS else "unknown code"


def describe(record: LogRecord, names: Names) -> str:
    """Word one record; what is folded into it is counted at its end."""
    wording = WORDINGS.get(record.code)
    text = wording(record.args, names) if wording else f"event {record.code} {record.args}"
    if record.repeats == 1:
        return text
    seconds = max(0, record.time_ns - record.first_ns) / 1e9  # the clock may have been set back
    times = f"{record.repeats:,} times in {seconds:.1f} s"
    if record.subjects == 1:
        return f"{text} ({times})"
    count = f"{record.subjects} or more" if record.subjects >= lib.MCR_LOG_SUBJECTS else f"{record.subjects}"
    return f"{text} (the newest of {times}, for {count} {_SUBJECTS.get(record.code, 'interfaces')})"


def log_record(worker_id: int, record: LogRecord, names: Names) -> None:
    """Log one record, at the time of its newest occurrence: mcrd may read it later."""
    when = record.time_ns / 1e9
    log = get_logger(record.facility)
    words, times = describe(record, names), record.repeats
    log.log_past(when, kind(record), record.level, "worker %d: %s", worker_id, words, worker=worker_id, times=times)
