"""The result of a run, for people (``str``) and for machines (`as_json`)."""

from typing import Any

import attrs

from trafficgen.latency import LatencySummary


@attrs.frozen
class SendReport:
    """What was sent."""

    planned: int
    sent: int
    """Frames the kernel took."""
    seconds: float
    """From the first due time to the last packet."""
    pps: float
    refused: int
    """How often the transmit queue was full. What it refused was sent later."""
    late_us: LatencySummary | None
    """How long after they were due packets were sent, at most: all of a system call count as its first."""

    @property
    def ok(self) -> bool:
        """Whether all of it was sent."""
        return self.sent == self.planned

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {"ok": self.ok, **attrs.asdict(self)}

    def __str__(self) -> str:
        return (
            f"sent {self.sent} of {self.planned} in {self.seconds:.3f} s ({self.pps:.0f} pps), "
            f"queue full {self.refused} times\nlateness: {self.late_us or 'none'}"
        )


@attrs.frozen
class Tally:
    """What became of the packets of a flow, a socket or a whole run."""

    expected: int = 0
    received: int = 0
    """Datagrams taken from the socket, of whatever kind."""
    unique: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    """Not as any sender made it: magic, version, length or checksum is wrong."""
    foreign: int = 0
    """Intact, but not expected here: another flow, or a number past the expected count."""

    @property
    def ok(self) -> bool:
        """Whether exactly what was expected came, once each and in order."""
        return not (self.lost or self.duplicated or self.reordered or self.corrupted or self.foreign)

    def __add__(self, other: "Tally") -> "Tally":
        mine, theirs = attrs.astuple(self), attrs.astuple(other)
        return Tally(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in attrs.asdict(self).items())


@attrs.frozen
class FlowReport:
    """One flow, as it arrived on one socket."""

    name: str
    tally: Tally
    latency_us: LatencySummary | None
    """From when a packet was due to when the receiver had it in hand."""

    def as_json(self) -> dict[str, Any]:
        """Its part of the object that `--json` prints."""
        return {"name": self.name, **attrs.asdict(self.tally), "latency_us": _latency_json(self.latency_us)}


@attrs.frozen
class SocketReport:
    """What came out of one socket."""

    socket: str
    """``G:P@IF``."""
    tally: Tally
    kernel_drops: int
    """What reached this socket and found no room, or had a wrong UDP checksum: not lost on the way."""
    flows: tuple[FlowReport, ...]

    def as_json(self) -> dict[str, Any]:
        """Its part of the object that `--json` prints."""
        return {
            "socket": self.socket,
            **attrs.asdict(self.tally),
            "kernel_drops": self.kernel_drops,
            "flows": [flow.as_json() for flow in self.flows],
        }


@attrs.frozen
class ReceiveReport:
    """What came out of all sockets."""

    tally: Tally
    kernel_drops: int
    """See `SocketReport.kernel_drops`."""
    seconds: float
    """From the first expected packet to the last."""
    pps: float
    latency_us: LatencySummary | None
    """Over all flows, see `FlowReport.latency_us`."""
    sockets: tuple[SocketReport, ...]

    @property
    def ok(self) -> bool:
        """Whether exactly what was expected came, once each and in order."""
        return self.tally.ok

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "ok": self.ok,
            **attrs.asdict(self.tally),
            "kernel_drops": self.kernel_drops,
            "seconds": self.seconds,
            "pps": self.pps,
            "latency_us": _latency_json(self.latency_us),
            "sockets": [socket.as_json() for socket in self.sockets],
        }

    def __str__(self) -> str:
        lines: list[str] = []
        for socket in self.sockets:
            lines.append(f"{socket.socket}: {socket.tally}, kernel drops {socket.kernel_drops}")
            lines += [f"  {flow.name}: {flow.tally}" for flow in socket.flows]
        lines.append(f"all: {self.tally}, kernel drops {self.kernel_drops}, {self.pps:.0f} pps")
        lines.append(f"latency: {self.latency_us or 'none'}")
        lines.append("all well" if self.ok else "NOT all well")
        return "\n".join(lines)


def _latency_json(latency: LatencySummary | None) -> dict[str, int] | None:
    return attrs.asdict(latency) if latency else None
