"""Takes the measurements of a stage, round by round."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from bench import sums
from bench.cpu import Meter, run_time_ns
from bench.plan import Stage, Workload
from bench.rig import PORT, RELAY_CPU, Program, Rig, Sink, Traffic, start_generator
from bench.subjects import LABELS, Mcr, Subject, Tools, start
from lab import Lab

BASELINE = "none"
MAX_STEAL = 0.005
MAX_FOREIGN = 0.02
ATTEMPTS = 3
GLANCE_S = 0.5
SETTLE_S = 0.02
SETTLE_LIMIT_S = 3.0
SEARCH_LOW, SEARCH_HIGH, SEARCH_STEPS, SEARCH_SECONDS = 20_000.0, 1_000_000.0, 8, 0.6
KEPT_UP = 1.02  # a generator that took so much longer than planned did not keep the rate
IDLE_SECONDS = 5.0
ANSWER_EVERY_S = 0.05


@attrs.frozen
class Reading:
    """One trial of one subject.

    Attributes:
        disturbed: somebody else had too much of the machine, at every attempt.
        delivered: packets at all outputs together.
        busy_ns: from before the first packet until after the last: of the relay's processor where frames interrupt it,
            else of all together.
        counted_other: at the sinks, but not the stream.
        latency: of the latency sink, in microseconds.
        extra: what the subject says about itself.
    """

    stage: str
    workload: str
    subject: str
    round: int
    outputs: int
    disturbed: bool
    sent: int
    noise: int
    delivered: int
    seconds: float
    busy_ns: int
    busy: tuple[float, ...]
    steal: float
    foreign: float
    late_us: float
    latency: dict[str, float] | None = None
    extra: dict[str, Any] = attrs.field(factory=dict)

    @property
    def forwarded(self) -> float:
        """Packets that came out of every output."""
        return self.delivered / self.outputs


class Patience:
    """Waits for the machine to be ours, so many seconds in all."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self) -> bool:
        """Wait until others take next to nothing; false: in vain."""
        while self._left > 0:
            begun = time.monotonic()
            meter = Meter()
            time.sleep(GLANCE_S)
            others = meter.stop()
            self._left -= time.monotonic() - begun
            if others.foreign <= MAX_FOREIGN and others.steal <= MAX_STEAL:
                return True
        return False


class Bed:
    """One subject in its rig, with its sink."""

    def __init__(self, lab: Lab, stage: Stage, kind: str, tools: Tools, patience: Patience) -> None:
        self.kind, self._stage, self._tools, self._patience = kind, stage, tools, patience
        # Without XDP at its far end the link itself has to refuse super-frames.
        self.rig = Rig.build(
            lab, kind, stage.outputs if kind != BASELINE else 0, gso=not stage.latency, interrupt=stage.interrupt
        )
        self.subject: Subject = start(kind, self.rig, stage.works.get(kind, stage.work), tools)
        self._sink: Sink | None = None
        if kind == BASELINE:  # drops where the packets come in
            self._sink = Sink(self.rig.relay, tools.programs / "sink", str(PORT), "in0")
        elif not stage.latency:
            interfaces = [f"snk{i}" for i in range(stage.outputs)]
            self._sink = Sink(self.rig.sink, tools.programs / "sink", str(PORT), *interfaces)

    def trial(self, workload: Workload, number: int) -> Reading:
        """Measure once, again if somebody else had too much of the machine."""
        reading = self._trial(workload, number)
        for _ in range(ATTEMPTS - 1):
            if not reading.disturbed or not self._patience.wait():
                break
            reading = self._trial(workload, number)
        return reading

    def _trial(self, workload: Workload, number: int) -> Reading:
        traffic = workload.traffic
        generator = start_generator(
            self.rig,
            self._tools.programs / "gen",
            traffic,
            burst=traffic.burst or self._burst(traffic),
            spin=self._stage.interrupt,
        )
        clock = self._start_clock()
        before = self._counted()
        meter = Meter()
        generator.say()
        report = generator.answer(traffic.seconds * 3 + 10)
        self._settle()
        usage = meter.stop()
        delivered, _ = (now - then for now, then in zip(self._counted(), before, strict=True))
        generator.end()
        latency = self._stop_clock(clock)
        if latency:
            delivered = int(latency.pop("received")) * self._stage.outputs
        return Reading(
            stage=self._stage.name,
            workload=workload.name,
            subject=self.kind,
            round=number,
            outputs=self._stage.outputs if self.kind != BASELINE else 1,
            disturbed=usage.steal > MAX_STEAL or usage.foreign > MAX_FOREIGN,
            sent=report["sent"],
            noise=report["noise"],
            delivered=delivered,
            seconds=report["seconds"],
            busy_ns=usage.busy_ns[RELAY_CPU] if self._stage.interrupt else sum(usage.busy_ns),
            busy=usage.busy,
            steal=usage.steal,
            foreign=usage.foreign,
            late_us=report["late_us"],
            latency=latency,
        )

    def _burst(self, traffic: Traffic) -> int:
        if not traffic.rate:
            return sums.burst_for(1e9)
        frames = traffic.rate * (1 + traffic.noise)
        return sums.spinning_burst(frames) if self._stage.interrupt else sums.burst_for(frames)

    def _start_clock(self) -> Program | None:
        if not self._stage.latency or self.kind == BASELINE:
            return None
        return Program(self.rig.sink, self._tools.programs / "latency", str(PORT), "snk0")

    @staticmethod
    def _stop_clock(clock: Program | None) -> dict[str, float] | None:
        if clock is None:
            return None
        assert clock.process.stdin
        clock.process.stdin.close()
        found: dict[str, float] = clock.answer(10)
        clock.process.wait(10)
        return found

    def _counted(self) -> tuple[int, int]:
        counters = self._sink.read() if self._sink else []
        return sum(each["packets"] for each in counters), sum(each["other"] for each in counters)

    def _settle(self) -> None:
        """Wait until nothing more comes: what is queued was paid for by whoever queued it."""
        deadline = time.monotonic() + SETTLE_LIMIT_S
        last = (-1, -1)
        while (now := self._counted()) != last and time.monotonic() < deadline:
            last = now
            time.sleep(SETTLE_S)

    # ---- more than one trial

    def zero_loss_rate(self, number: int) -> float:
        """Search the highest rate of which nothing is lost, twice tried."""

        def passes(rate: float) -> bool:
            return any(self._loses_nothing(rate, number) for _ in range(2))

        return sums.highest_passing(passes, SEARCH_LOW, SEARCH_HIGH, SEARCH_STEPS)

    def _loses_nothing(self, rate: float, number: int) -> bool:
        reading = self.trial(Workload("search", Traffic(rate, seconds=SEARCH_SECONDS)), number)
        return reading.forwarded >= reading.sent and reading.seconds < SEARCH_SECONDS * KEPT_UP

    def overload(self, rate: float, number: int) -> dict[str, Any]:
        """Offer MCR a rate, and see what became of it and how fast the control socket answers meanwhile."""
        assert isinstance(self.subject, Mcr)
        mcr = self.subject
        before = mcr.call("stats")
        questions = {"stats_ms": lambda: mcr.call("stats"), "mcrctl_ms": lambda: mcr.ctl("ping")}
        with asking(questions, ANSWER_EVERY_S) as answers:
            reading = self._trial(Workload("overload", Traffic(rate, seconds=2.0)), number)
        after = mcr.call("stats")

        def grown(part: str, name: str) -> int:
            return int(after[part][name]) - int(before[part][name])

        return {
            "round": number,
            "offered": reading.sent / reading.seconds,
            "forwarded": reading.forwarded / reading.seconds,
            "sent": reading.sent,
            "delivered": reading.delivered,
            "unaccounted_in": reading.sent - grown("ingress", "recv") - grown("ingress", "kernel_drops"),
            "unaccounted_out": grown("egress", "submitted") - grown("egress", "sent") - grown("egress", "errors"),
            "undelivered": grown("egress", "sent") - reading.delivered,
            **answers,
        }

    def idle_share(self) -> float:
        """Measure how much of a processor the subject takes when nothing comes."""
        pids = self.subject.processes()
        before, start_ns = run_time_ns(pids), time.monotonic_ns()
        time.sleep(IDLE_SECONDS)
        return (run_time_ns(pids) - before) / (time.monotonic_ns() - start_ns)

    def memory(self) -> dict[str, int]:
        """Read how much memory MCR's worker has, in KiB: resident, and of that its own."""
        assert isinstance(self.subject, Mcr)
        text = Path(f"/proc/{self.subject.worker()['pid']}/smaps_rollup").read_text(encoding="ascii")
        fields = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in text.splitlines()[1:]}
        return {name: fields[name] for name in ("Rss", "Pss", "Private_Dirty", "Private_Clean", "Anonymous")}


@contextlib.contextmanager
def asking(questions: dict[str, Callable[[], object]], every_s: float) -> Iterator[dict[str, float]]:
    """Ask again and again; in the end, the longest times that an answer took, in milliseconds."""
    longest = dict.fromkeys(questions, 0.0)
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(every_s):
            for name, question in questions.items():
                begun = time.monotonic()
                question()
                longest[name] = max(longest[name], (time.monotonic() - begun) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield longest
    finally:
        stop.set()
        thread.join()


@attrs.frozen
class StageResult:
    """Everything found on one stage."""

    stage: Stage
    readings: list[Reading] = attrs.field(factory=list)
    zero_loss: list[dict[str, Any]] = attrs.field(factory=list)
    overloads: list[dict[str, Any]] = attrs.field(factory=list)
    idle: dict[str, float] = attrs.field(factory=dict)
    memory: dict[str, dict[str, int]] = attrs.field(factory=dict)


def run_stage(result: StageResult, rounds: int, tools: Tools, patience: Patience, say: Callable[[str], None]) -> None:
    """Set the rigs of a stage up, measure all rounds, and take everything down; `result` has what was found so far."""
    stage = result.stage
    with Lab() as lab:
        beds = {}
        # Where the generator has a processor of its own, nothing needs to be taken off.
        for kind in stage.subjects if stage.interrupt else (BASELINE, *stage.subjects):
            say(f"{stage.name}: setting up {LABELS.get(kind, kind)}")
            beds[kind] = Bed(lab, stage, kind, tools, patience)
        time.sleep(3.0)  # the last reports of group memberships
        for kind in stage.subjects:
            bed = beds[kind]
            if isinstance(bed.subject, Mcr):
                result.idle[kind] = bed.idle_share()
                result.memory[kind] = bed.memory()
        for number in range(rounds):
            for workload in stage.workloads:
                for kind in sums.order([*beds], number):
                    reading = beds[kind].trial(workload, number)
                    result.readings.append(reading)
                    say(f"{stage.name}, round {number + 1}/{rounds}: {_line(reading)}")
            if stage.search:
                _search(stage, beds, number, result, say)
        for kind in stage.subjects:
            if isinstance(beds[kind].subject, Mcr):
                result.memory[f"{kind}, after the traffic"] = beds[kind].memory()


def _search(stage: Stage, beds: dict[str, Bed], number: int, result: StageResult, say: Callable[[str], None]) -> None:
    rates = {}
    for kind in sums.order([*beds], number):
        rates[kind] = beds[kind].zero_loss_rate(number)
        result.zero_loss.append({"stage": stage.name, "subject": kind, "round": number, "rate": rates[kind]})
        say(f"{stage.name}, round {number + 1}: {LABELS.get(kind, kind)}: no loss at {rates[kind] / 1000:.0f} kpps")
    if stage.overload and "mcr" in beds:
        offered = 2 * rates["mcr"]
        if offered > rates.get(BASELINE, SEARCH_HIGH):
            offered = 0.0  # the generator can't; as much as it can
        found = beds["mcr"].overload(offered, number) | {"stage": stage.name, "zero_loss": rates["mcr"]}
        result.overloads.append(found)
        say(f"{stage.name}, round {number + 1}: overload: {found}")


def _line(reading: Reading) -> str:
    rate = reading.sent / reading.seconds / 1000
    latency = f", p50 {reading.latency['p50']:.0f} µs" if reading.latency else ""
    cpus = "/".join(f"{share:.0%}" for share in reading.busy)
    lost = reading.sent - reading.forwarded
    note = " DISTURBED" if reading.disturbed else ""
    return (
        f"{reading.workload}: {LABELS.get(reading.subject, reading.subject)}: {rate:.0f} kpps sent, "
        f"{lost:.0f} lost, cpus {cpus}{latency}, steal {reading.steal:.2%}, others {reading.foreign:.1%}{note}"
    )
