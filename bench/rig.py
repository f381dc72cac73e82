"""The network of one subject, and the traffic through it: source ── relay ── sink, in namespaces of their own."""

import json
import select
import subprocess
from pathlib import Path
from typing import Any, Self

import attrs

from lab import Lab, LabError, Namespace

PORT = 5001
FIRST_GROUP = "239.1.0.1"
SOURCE = "198.18.1.1"
GENERATOR_CPU = 0
RELAY_CPU = 1

_START_TIMEOUT_S = 20.0


def output_group(output: int) -> str:
    """Give the first group of an output; that of flow n is n further."""
    return f"239.{2 + output}.0.1"


@attrs.frozen
class Rig:
    """One relay's own network: src0 ── in0 on one side, out0 ── snk0 and as many more as wanted on the other."""

    source: Namespace
    relay: Namespace
    sink: Namespace
    outputs: tuple[str, ...]

    @classmethod
    def build(cls, lab: Lab, name: str, outputs: int, *, gso: bool = True, interrupt: bool = False) -> Self:
        """Lay the cables. Every way out has a route for multicast, as sends without one cost more.

        Args:
            lab: owns it.
            name: for messages.
            outputs: how many.
            gso: whether super-frames may cross the links.
            interrupt: whether frames interrupt the relay's processor, as those of a network card would; else the
                generator's does the work up to the relay's socket.
        """
        source, relay, sink = (lab.namespace(f"{name}-{part}") for part in ("source", "relay", "sink"))
        for namespace in (source, relay, sink):
            for which in ("all", "default"):
                namespace.sysctl(f"net.ipv4.conf.{which}.rp_filter", "0")
        lab.link(source, "src0", relay, "in0", a_address=f"{SOURCE}/24", b_address="198.18.1.2/24", gso=gso)
        for i in range(outputs):
            lab.link(relay, f"out{i}", sink, f"snk{i}", a_address=relay_address(i, 24), gso=gso)
            relay.ip(f"route add 224.0.0.0/4 dev out{i} metric {i + 1}")
        if interrupt:
            mask = f"{1 << RELAY_CPU:x}"
            steer = f"mount -t sysfs sysfs /sys && echo {mask} > /sys/class/net/in0/queues/rx-0/rps_cpus"
            relay.run(["unshare", "--mount", "sh", "-c", steer])  # /sys shows the network of who mounted it
        return cls(source, relay, sink, tuple(f"out{i}" for i in range(outputs)))


def relay_address(output: int, prefix: int | None = None) -> str:
    """Give the relay's own address on an output."""
    return f"198.18.{10 + output}.1" + (f"/{prefix}" if prefix else "")


class Program:
    """One of our C programs: says "ready", is spoken to by lines, answers in JSON."""

    def __init__(self, namespace: Namespace, path: Path, *arguments: str) -> None:
        self._name = path.name
        self.process = namespace.popen(
            [path, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if self._line(_START_TIMEOUT_S) != "ready":
            raise self._failure()

    def say(self) -> None:
        """Send it an empty line."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self, timeout: float) -> Any:
        """Wait for a line of JSON.

        Raises:
            LabError: it ended, or took too long.
        """
        try:
            return json.loads(self._line(timeout))
        except ValueError:
            raise self._failure() from None

    def _line(self, timeout: float) -> str:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            raise LabError(f"{self._name}: no answer within {timeout:g} s")
        return str(self.process.stdout.readline()).strip()

    def _failure(self) -> LabError:
        self.process.kill()
        assert self.process.stderr
        return LabError(f"{self._name} failed", *self.process.stderr.read().splitlines()[-5:])

    def end(self) -> None:
        """Close its standard input, which ends it, and reap it."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        self.process.wait(_START_TIMEOUT_S)


class Sink(Program):
    """Counts at XDP, and so makes the relay's kernel cut super-frames."""

    def read(self) -> list[dict[str, Any]]:
        """Counters of each interface."""
        self.say()
        counters: list[dict[str, Any]] = self.answer(5.0)
        return counters


@attrs.frozen
class Traffic:
    """What is sent.

    Attributes:
        rate: packets per second that match; 0 for as many as possible.
        size: bytes of payload.
        flows: groups in turn.
        noise: packets that match no rule, for each that does.
        seconds: how long.
        burst: packets that leave together; chosen by rate if 0.
        checksums: whether datagrams have a UDP checksum, which nobody has verified yet.
    """

    rate: float
    size: int = 1316
    flows: int = 1
    noise: int = 0
    seconds: float = 1.5
    burst: int = 0
    checksums: bool = False


def start_generator(rig: Rig, path: Path, traffic: Traffic, *, burst: int, spin: bool) -> Program:
    """Have a generator ready to go; it goes at the first line."""
    options = {
        "interface": "src0",
        "source": SOURCE,
        "group": FIRST_GROUP,
        "port": PORT,
        "flows": traffic.flows,
        "noise": traffic.noise,
        "size": traffic.size,
        "rate": traffic.rate * (1 + traffic.noise),
        "burst": burst,
        "seconds": traffic.seconds,
        "cpu": GENERATOR_CPU,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    flags = [*(["--spin"] if spin else []), *(["--checksum"] if traffic.checksums else [])]
    return Program(rig.source, path, *words, *flags)
