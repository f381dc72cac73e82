"""Judging what came out of one socket: every datagram is counted, once, under one name.

Rules of the module:

1. received = unique + duplicated + corrupted + foreign. Nothing else can happen to a datagram.
2. lost = expected - unique: it never arrived, however late.
3. A repeat is duplicated only; a first arrival with a number below one seen before is unique and reordered.
"""

import enum
from collections import Counter
from collections.abc import Mapping

import trafficgen.payload as payloads
from trafficgen.latency import summarize
from trafficgen.report import FlowReport, Tally


class Verdict(enum.Enum):
    """What a packet is to the flow it claims to belong to."""

    NEW = enum.auto()
    REPEATED = enum.auto()
    BEYOND = enum.auto()
    """Its number is past the expected count."""


class FlowJudge:
    """Follows one flow."""

    def __init__(self, name: str, expected: int) -> None:
        self._name = name
        self._expected = expected
        self._seen = bytearray(expected)  # a byte each: 1 once it came
        self._next = 0  # one more than the highest seen
        self._unique = self._duplicated = self._reordered = 0
        self.latencies: Counter[int] = Counter()

    def expect(self, count: int) -> None:
        """No more than so many packets are to come; there was room for at least as many."""
        self._expected = count

    def take(self, sequence: int, latency_us: int) -> Verdict:
        """Count a packet."""
        if sequence >= len(self._seen):
            return Verdict.BEYOND
        if self._seen[sequence]:
            self._duplicated += 1
            return Verdict.REPEATED
        self._seen[sequence] = 1
        self._unique += 1
        self.latencies[latency_us] += 1
        if sequence >= self._next:
            self._next = sequence + 1
        else:
            self._reordered += 1
        return Verdict.NEW

    @property
    def complete(self) -> bool:
        """Whether all that was expected has come."""
        return self._unique == self._expected

    @property
    def missing(self) -> int:
        """How many with a number below the highest seen have not come, so far."""
        return self._next - self._unique

    def report(self) -> FlowReport:
        """What became of the flow, as of now."""
        tally = Tally(
            expected=self._expected,
            received=self._unique + self._duplicated,
            unique=self._unique,
            lost=self._expected - self._unique,
            duplicated=self._duplicated,
            reordered=self._reordered,
        )
        return FlowReport(self._name, tally, summarize(self.latencies))


class SocketJudge:
    """Tells the flows of one socket apart, and from what does not belong there."""

    def __init__(self, expected: Mapping[str, int], *, any_flow: int = 0) -> None:
        """Expect flows.

        Args:
            expected: how many packets of each flow, by name.
            any_flow: expect flows not named, too: so many packets of each one seen, and of one if none is.
        """
        self._flows = {payloads.flow_id(name): FlowJudge(name, count) for name, count in expected.items()}
        self._any_flow = any_flow
        self._corrupted = self._foreign = 0

    def expect(self, count: int) -> None:
        """So many packets of each flow, which is known only now; not more than was said before."""
        for flow in self._flows.values():
            flow.expect(count)

    def take(self, payload: memoryview, now_ns: int) -> bool:
        """Count a datagram received at `now_ns` (CLOCK_MONOTONIC); return whether it is expected and new."""
        stamp = payloads.read(payload)
        if stamp is None:
            self._corrupted += 1
            return False
        flow = self._flows.get(stamp.flow)
        if flow is None and self._any_flow:
            flow = self._flows[stamp.flow] = FlowJudge(f"{stamp.flow:#010x}", self._any_flow)
        verdict = flow.take(stamp.sequence, (now_ns - stamp.due_ns) // 1000) if flow else Verdict.BEYOND
        if verdict is Verdict.BEYOND:
            self._foreign += 1
        return verdict is Verdict.NEW

    @property
    def complete(self) -> bool:
        """Whether all that was expected has come."""
        return bool(self._flows) and all(flow.complete for flow in self._flows.values())

    @property
    def missing(self) -> int:
        """How many have been overtaken by later ones of their flow and not come, so far."""
        return sum(flow.missing for flow in self._flows.values())

    @property
    def latencies(self) -> Counter[int]:
        """How many packets took how many microseconds, over all flows."""
        return sum((flow.latencies for flow in self._flows.values()), Counter())

    def report(self) -> tuple[Tally, tuple[FlowReport, ...]]:
        """What became of everything that was and should have been received, as of now; and by flow."""
        flows = tuple(flow.report() for flow in self._flows.values())
        if not flows:
            flows = (FlowReport("any", Tally(expected=self._any_flow, lost=self._any_flow), None),)
        others = Tally(received=self._corrupted + self._foreign, corrupted=self._corrupted, foreign=self._foreign)
        return sum((flow.tally for flow in flows), others), flows
