"""The relays that are compared, each set up to do the same work."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import attrs

from bench.rig import FIRST_GROUP, PORT, RELAY_CPU, SOURCE, Program, Rig, output_group, relay_address
from daemon_process import DaemonProcess
from lab import LabError, Namespace
from mcr.daemon import NICE

_START_TIMEOUT_S = 20.0
_SOCKET_BYTES = 16 << 20  # as the other peers have

DELIVERING = "mcr-no-absorb"
BY_WORKERS = "mcr-worker-path"


@attrs.frozen
class Work:
    """What a relay has to do: each flow from its input group to the same number of each output's.

    Attributes:
        flows: that are sent.
        rules: that a relay which has rules is given in all; the others match nothing that is sent.
    """

    flows: int = 1
    rules: int = 1


@attrs.frozen
class Tools:
    """Where things are."""

    programs: Path  # our C programs
    mcr: Path  # mcrd, mcrctl
    directory: Path  # for sockets, logs


class Subject(Protocol):
    """A relay at work."""

    def processes(self) -> list[int]:
        """Pids of what it runs in."""
        ...


class NoRelay:
    """Nothing: for a rig whose packets are dropped where they come in."""

    def processes(self) -> list[int]:
        """None."""
        return []


def _wait_until(condition: Callable[[], object], what: str, log: Callable[[], str]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"After {_START_TIMEOUT_S:g} s still not: {what}", *log().splitlines()[-5:])
        time.sleep(0.02)


def _prefer(pid: int) -> None:
    """Give a peer the priority that mcrd gives itself, where that is permitted."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)


class Mcr(DaemonProcess):
    """The real `mcrd`, set up by the real `mcrctl`."""

    def __init__(self, rig: Rig, work: Work, tools: Tools, name: str, *, saves: bool = False) -> None:
        super().__init__(rig.relay, tools.mcr, tools.directory / f"{name}.sock", tools.directory / f"{name}.log")
        # One worker, on its own processor: as many as the peers have.
        path = "off" if name == BY_WORKERS else "auto"
        settings = f"MCR_ABSORB={int(name != DELIVERING)}", f"MCR_KERNEL_PATH={path}"
        prefix = ("env", *settings, "taskset", "-c", str(RELAY_CPU))
        self.launch(*(() if saves else ("--no-state",)), "--num-workers", "1", prefix=prefix)
        self.wait_until_it_answers(_START_TIMEOUT_S)
        self._add_rules(rig, work)
        if path == "auto" and name != DELIVERING:
            _wait_until(lambda: self.call("list")[-1]["path"] == "kernel", "the kernel path is taken", self.log)

    def _add_rules(self, rig: Rig, work: Work) -> None:
        lines = []
        for number in range(max(work.rules, work.flows)):
            outputs = ",".join(f"{nth(output_group(i), number)}:{PORT}:{out}" for i, out in enumerate(rig.outputs))
            lines.append(
                f"--input-interface in0 --input-group {nth(FIRST_GROUP, number)} --input-port {PORT} "
                f"--outputs {outputs}\n"
            )
        self.ctl("add", "--batch", "-", input="".join(lines), timeout=60)

    def worker(self) -> dict[str, Any]:
        """Describe the only worker."""
        (worker,) = self.workers()
        return worker

    def processes(self) -> list[int]:
        """Supervisor and worker."""
        assert self.process is not None
        return [self.process.pid, int(self.worker()["pid"])]


def nth(group: str, number: int) -> str:
    """Give the group so much further."""
    value = int.from_bytes(bytes(int(part) for part in group.split("."))) + number
    return ".".join(str(byte) for byte in value.to_bytes(4))


class KernelRouting:
    """The kernel's multicast routing, set up by smcroute. It can't rewrite: the group stays what it was."""

    def __init__(self, rig: Rig, work: Work, tools: Tools, name: str) -> None:
        self._check(work)
        config = tools.directory / f"{name}.conf"
        config.write_text(
            "".join(f"phyint {interface} enable ttl-threshold 1\n" for interface in ("in0", *rig.outputs))
            + f"mgroup from in0 group {FIRST_GROUP}\n"
            + f"mroute from in0 group {FIRST_GROUP} source {SOURCE} to {' '.join(rig.outputs)}\n",
            encoding="utf-8",
        )
        log_file = tools.directory / f"{name}.log"
        with log_file.open("w", encoding="utf-8") as log:
            self._process = rig.relay.popen(
                [
                    *("smcrouted", "-n", "-N", "-l", "info", "-f", config, "-i", name),
                    *("-P", tools.directory / f"{name}.pid", "-u", tools.directory / f"{name}.sock"),
                ],
                stdout=log,
                stderr=log,
            )
        _wait_until(
            lambda: FIRST_GROUP in rig.relay.ip("mroute show"),
            "smcrouted has set the route up",
            lambda: log_file.read_text(encoding="utf-8"),
        )

    @staticmethod
    def _check(work: Work) -> None:
        if work.flows != 1:
            raise LabError("kernel routing is measured with one flow")

    def processes(self) -> list[int]:
        """Only who set it up; the work is done in the kernel."""
        return [self._process.pid]


class Peer:
    """One of our C programs."""

    def __init__(self, program: str, rig: Rig, work: Work, tools: Tools) -> None:
        outputs = ",".join(f"{output_group(i)}:{PORT}:{out}" for i, out in enumerate(rig.outputs))
        options = {"in": "in0", "group": FIRST_GROUP, "port": PORT, "out": outputs, "flows": work.flows}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._program = Program(rig.relay, tools.programs / program, *words, "--cpu", str(RELAY_CPU))
        _prefer(self._program.process.pid)

    def processes(self) -> list[int]:
        """The one."""
        return [self._program.process.pid]


class Socat:
    """One socat for each output, each with a membership of its own."""

    def __init__(self, rig: Rig, tools: Tools, name: str) -> None:
        self._processes = [
            self._start(rig.relay, i, out, tools.directory / f"{name}-{i}.log") for i, out in enumerate(rig.outputs)
        ]
        time.sleep(0.3)
        for i, process in enumerate(self._processes):
            if process.poll() is not None:
                raise LabError("socat ended", (tools.directory / f"{name}-{i}.log").read_text(encoding="utf-8"))
            _prefer(process.pid)

    @staticmethod
    def _start(namespace: Namespace, index: int, out: str, log_file: Path) -> "subprocess.Popen[str]":
        receive = (
            f"UDP4-RECV:{PORT},bind={FIRST_GROUP},reuseaddr,ip-add-membership={FIRST_GROUP}:in0,"
            f"rcvbuf={_SOCKET_BYTES}"  # no more than net.core.rmem_max
        )
        send = (
            f"UDP4-SENDTO:{output_group(index)}:{PORT},so-bindtodevice={out},"
            f"ip-multicast-if={relay_address(index)},ip-multicast-loop=0"
        )
        with log_file.open("w", encoding="utf-8") as log:
            command = ["taskset", "-c", str(RELAY_CPU), "socat", "-u", "-b", "9000", receive, send]
            return namespace.popen(command, stdout=log, stderr=log)

    def processes(self) -> list[int]:
        """All."""
        return [process.pid for process in self._processes]


LABELS = {
    "mcr": "MCR",
    "kernel": "kernel routing",
    "mmsg": "recvmmsg + sendmmsg",
    "uring": "io_uring, packet by packet",
    "recvsend": "recv + send",
    "socat": "socat",
    "none": "generate and drop",
    "nobody": "no relay",
    DELIVERING: "MCR, MCR_ABSORB=0",
    BY_WORKERS: "MCR, MCR_KERNEL_PATH=off",
    "in_mmsg": "recvmmsg, GSO batches",
    "in_multishot": "multishot receive, GSO batches",
    "in_v2": "TPACKET_V2, GSO batches",
    "in_v3": "TPACKET_V3, GSO batches",
}
"""What is compared, in the order of the tables."""


def start(kind: str, rig: Rig, work: Work, tools: Tools) -> Subject:
    """Have a relay of some kind ready.

    Raises:
        LabError: it is not installed, or did not start.
    """
    if kind.startswith("mcr"):
        return Mcr(rig, work, tools, kind)
    if kind == "kernel":
        return KernelRouting(rig, work, tools, kind)
    if kind == "socat":
        return Socat(rig, tools, kind)
    if kind in ("none", "nobody"):
        return NoRelay()
    return Peer(f"peer_{kind}", rig, work, tools)
