"""A real `mcrd` in a namespace, real `mcrctl` beside it, and real traffic, as the end-to-end tests use them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from daemon_process import DaemonProcess
from forked import Forked, Limits, run_mcrctl
from generator import Generator
from lab import Namespace, Running, environment_of
from mcr.config.output_text import parse_output
from seccomp import DENIES_IO_URING, WITHOUT_IO_URING

BIN = Path(sys.executable).parent
IS_ROOT = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
"""Root, and not only of a user namespace."""
SLOWNESS = float(os.environ.get("MCR_SLOWNESS", "1"))
"""How many times slower than a machine of today this one is; an emulated one is. Rates are divided by it, patience
multiplied; no claim becomes weaker.
"""
PATIENCE = 30.0 * SLOWNESS
"""Seconds after which what has to come is missed. Nobody waits for so long, but where something is wrong."""
STATUS = {"ok": 0, "advice": 1, "fault": 2}
"""Exit statuses of `mcrctl why` and `mcrctl doctor`, by the worst verdict."""

_START_SECONDS = 60.0
_PLENTY = 10_000_000  # packets of a flow that a receiver has room for: more than a test sends
_LEAST_PAUSE, _LONGEST_PAUSE = 0.01, 0.05  # seconds
_STANDARD_OUTPUT = 1
_BOUNDING = "--bounding-set="
_DESCRIPTORS = re.compile(r"--nofile=([0-9]+):\1")
_NO_TCX = "Linux 6.6"  # part of why rules take the worker path where the kernel has no other


def wait_until(condition: Callable[..., Any], what: str, seconds: float = 30.0) -> Any:
    """Ask again and again until the answer is true, and return it. For what can't be waited on.

    What has taken long is asked for less often: it is known a tenth later at most.
    """
    begun = time.monotonic()
    while True:
        answer = condition()
        if answer:
            return answer
        waited = time.monotonic() - begun
        if waited > seconds * SLOWNESS:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(min(max(_LEAST_PAUSE, waited / 10), _LONGEST_PAUSE))


class Mcr(DaemonProcess):
    """One daemon, whose promises are checked."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        name: str = "mcr",
        prefix: Sequence[str | Path] = (),
        *,
        executed: bool = False,
        executes_workers: bool = False,
        kept: Mapping[str, int] | None = None,
        **process_options: Any,
    ) -> None:
        """Nothing runs yet.

        Args:
            namespace: where it relays.
            directory: where its socket, its log and its state are.
            name: of these.
            prefix: a command that runs it.
            executed: have it started as a shell would, because the start is what matters. It is, too, if there are
                options of the process, or a prefix other than ``env NAME=VALUE…``, ``setpriv --bounding-set=…``,
                ``prlimit --nofile=N:N`` and `WITHOUT_IO_URING`; otherwise it is forked.
            executes_workers: have a forked one start its workers as it does outside of tests, because their start is
                what matters; otherwise it forks them.
            kept: descriptors that a service manager has kept, by their names; for one that is forked.
            process_options: see `Namespace.popen`.
        """
        super().__init__(namespace, BIN, directory / f"{name}.sock", directory / f"{name}.log")
        self.late_outputs: set[tuple[str, int, str]] = set()
        """Outputs that a rule got after it had begun to match: they are owed less than it matched."""
        self._prefix = prefix
        self._process_options = process_options
        self._executed = executed
        self._executes_workers = executes_workers
        self._kept = kept
        self.stop_seconds = 10.0
        self.leaves_workers = False
        """They end when the last descriptor of their channels is closed, a little after mcrd."""

    def start(self, workers: int | None = 1, *options: str) -> "Mcr":
        """Start it and wait until it answers and its workers run; None: as many as it likes."""
        self.begin(workers, *options)
        self.wait_until_it_answers(_START_SECONDS * SLOWNESS)
        return self

    def begin(self, workers: int | None = 1, *options: str) -> Running:
        """Only start it."""
        chosen = () if workers is None else ("--num-workers", str(workers))
        return self.launch(*chosen, *options, prefix=self._prefix, **self._process_options)

    def launch(self, *options: str, prefix: Sequence[str | Path] = (), **process_options: Any) -> Running:
        """Only start it; `prefix` is a command that runs it."""
        given = _given(prefix)
        if self._executed or process_options or given is None:
            assert not self._kept, "only what is forked gets these; see service_manager.py"
            return super().launch(*options, prefix=prefix, **process_options)
        settings, limits = given
        environment = environment_of(os.environ | settings)
        with self.log_file.open("a") as log, Path(os.devnull).open() as nothing:
            standard = nothing.fileno(), _STANDARD_OUTPUT, log.fileno()
            self.process = Forked(
                *("mcrd", self._mcrd(options), self.namespace, standard),
                environment=environment,
                kept=self._kept,
                forks_workers=not self._executes_workers,
                limits=limits,
            )
        return self.process

    def ctl(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run mcrctl: forked, unless there are options of the process other than its `input`."""
        if options.keys() - {"input"}:
            return super().ctl(*arguments, check=check, **options)
        done = run_mcrctl(self._mcrctl(arguments), self.namespace, environment_of(os.environ), **options)
        if check:
            self.namespace.check(done.args, done)
        return done

    def add(self, source: str, *outputs: str, rule_id: str | None = None, state: str = "active") -> str:
        """Add the rule ``IF:G:P`` to outputs ``G:P:IF``; return its id once it is in this state."""
        interface, rest = source.split(":", 1)
        group, port = rest.rsplit(":", 1)
        place = {"interface": interface, "group": group.strip("[]"), "port": int(port)}
        wanted = {"input": place, "outputs": [parse_output(each) for each in outputs]}
        (rule,) = self.call("add", {"rules": [wanted | ({"rule_id": rule_id} if rule_id else {})]})
        if rule["state"] == "pending":  # the machine has let a worker wait for two seconds
            rule = wait_until(partial(self._acknowledged, rule["rule_id"]), "the workers have it")
        assert rule["state"] == state
        return str(rule["rule_id"])

    def _acknowledged(self, rule_id: str) -> dict[str, Any] | None:
        """A rule as it is listed, unless a worker does not have it yet."""
        (rule,) = (each for each in self.call("list") if each["rule_id"] == rule_id)
        return None if rule["state"] == "pending" else dict(rule)

    def wait_for_workers(self) -> list[dict[str, Any]]:
        """Wait until all run."""
        wait_until(lambda: all(worker["state"] == "running" for worker in self.workers()), "all workers run")
        return self.workers()

    def stats(self) -> dict[str, Any]:
        """As `mcrctl stats --json` shows them."""
        stats: dict[str, Any] = self.call("stats")
        return stats

    def rules(self) -> list[dict[str, Any]]:
        """As they are listed, but for the path that they take: that changes by itself."""
        return [{name: value for name, value in rule.items() if "path" not in name} for rule in self.call("list")]

    def wait_for_path(self, path: str, rule: int = 0) -> None:
        """Until a rule takes the kernel path, or the worker path. A test is skipped where there is no kernel path."""

        def decided() -> str:
            found = self.call("list")[rule]
            if found["path"] == path:
                return path
            return str(found["path_reason"]) if path == "kernel" and _NO_TCX in found["path_reason"] else ""

        if (why := wait_until(decided, f"rule {rule} takes the {path} path")) != path:
            pytest.skip(f"this kernel has no kernel path: {why}")

    def says(self, text: str) -> bool:
        """Whether it logs something: a thread writes the log, and may be late."""
        return bool(wait_until(lambda: text in self.log(), f"the log has: {text}"))

    def describe(self) -> str:
        """What is to be known of it when a test has failed: its counters, its workers, the end of its log."""
        try:
            known = [json.dumps(self.call(method)) for method in ("stats", "list_workers", "list")]
        except Exception as error:  # noqa: BLE001 - whatever it is, the log is shown
            known = [repr(error)]
        return "\n".join([*(each[:4000] for each in known), *self.log().splitlines()[-60:]])

    def check_counters(self, arrived: int | None = None) -> dict[str, Any]:
        """Traffic rests: every identity of the contract holds, exactly. Returns the counters."""

        last: list[Any] = []

        def settled() -> dict[str, Any] | None:
            now = self.stats()
            counters = without_rates(now)
            same = counters in last
            last[:] = [counters]
            come = now["ingress"]["recv"] + now["ingress"]["kernel_drops"]
            return now if same and (arrived is None or come >= arrived) else None

        stats: dict[str, Any] = wait_until(settled, f"counters rest, {arrived} packets counted: {self.stats()}")
        ingress, egress = stats["ingress"], stats["egress"]
        classes = ("matched", "parse_err", "no_match", "buf_exhaust")
        assert ingress["recv"] == sum(ingress[name] for name in classes)
        assert egress["submitted"] == egress["sent"] + egress["errors"]
        for rule in stats["rules"]:
            for output in rule["outputs"]:
                late = (output["group"], output["port"], output["interface"]) in self.late_outputs
                assert output["submitted"] == rule["matched"] or (late and output["submitted"] < rule["matched"])
                assert output["submitted"] == output["sent"] + output["errors"]
        for name in ("recv", *classes, "kernel_drops"):
            elsewhere = ingress["screened"] if name in ("recv", "no_match") else 0
            elsewhere += stats["kernel_path"].get(name, 0)
            assert ingress[name] == elsewhere + sum(worker[name] for worker in stats["workers"]), name
        for name in ("submitted", "sent", "errors", "bytes"):
            shares = [*stats["workers"], stats["kernel_path"]]
            assert egress[name] == sum(share[name] for share in shares), name
        for interface in stats["interfaces"]:
            unsound = sum(interface["parse_errors"].values())
            assert interface["recv"] == sum(interface[name] for name in classes if name != "parse_err") + unsound
        for name in ("recv", "matched", "no_match", "buf_exhaust", "kernel_drops"):
            assert ingress[name] == sum(interface[name] for interface in stats["interfaces"]), name
        if arrived is not None:
            assert ingress["recv"] + ingress["kernel_drops"] == arrived
        return stats

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live."""
        return [worker["pid"] for worker in self.workers() if worker["pid"]]

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """End it as an operator would: it exits with 0 in time, and its workers with it."""
        assert self.process is not None
        pids = self.worker_pids()
        before = time.monotonic()
        self.process.send_signal(signum)
        assert self.process.wait(10) == 0, self.log()
        assert time.monotonic() - before < self.stop_seconds
        if self.leaves_workers:
            wait_until(lambda: not any(map(alive, pids)), "its workers have ended")
        assert not [pid for pid in pids if alive(pid)]
        assert not self.socket.exists()

    @property
    def running(self) -> bool:
        """Whether the daemon lives."""
        return self.process is not None and self.process.poll() is None


def _given(prefix: Sequence[str | Path]) -> tuple[dict[str, str], Limits] | None:
    """The variables and the limits that a prefix gives, if that is all that it does."""
    settings: dict[str, str] = {}
    limits = Limits()
    program = "env"
    python, denies = map(str, WITHOUT_IO_URING)
    for word in map(str, prefix):
        if word in ("env", "setpriv", "prlimit", "--", python):
            program = "env" if word == "--" else word
        elif program == "env" and "=" in word and not word.startswith("-"):
            name, value = word.split("=", 1)
            settings[name] = value
        elif program == "setpriv" and word.startswith(_BOUNDING) and not limits.bounding:
            limits = attrs.evolve(limits, bounding=word.removeprefix(_BOUNDING))
        elif program == "prlimit" and (match := _DESCRIPTORS.fullmatch(word)):
            limits = attrs.evolve(limits, descriptors=int(match[1]))
        elif (program, word) == (python, denies):
            limits, program = attrs.evolve(limits, denied=DENIES_IO_URING), "env"
        else:
            return None
    return settings, limits


def without_rates(stats: Any) -> Any:
    """The same, but for rates and times, which go on changing when traffic rests: `error_pps`, `no_match_pps`, …"""
    if isinstance(stats, dict):
        changing = ("pps", "bps", "_ago", "health")
        return {name: without_rates(value) for name, value in stats.items() if not name.endswith(changing)}
    return [without_rates(each) for each in stats] if isinstance(stats, list) else stats


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    """Child processes that live, whichever thread made them."""
    lists = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            lists.append(each.read_text())
    return [int(child) for children in lists for child in children.split() if alive(int(child))]


def descriptors_of(pid: int) -> list[str]:
    """What a process has open, as the links in /proc/PID/fd say it; nothing of what it closes meanwhile."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(each.readlink()))
    return found


class Sender:
    """The traffic generator, sending."""

    def __init__(
        self,
        namespace: Namespace,
        interface: str,
        *flows: str,
        count: int,
        rate: float,
        size: int = 188,
        source: str | None = None,
    ) -> None:
        """Send `count` packets of each flow ``G:P[=NAME]``, `rate` packets per second over all (see SLOWNESS).

        They come from the interface's address, or from `source`.
        """
        self.total = count * len(flows)
        words = [
            "--interface",
            interface,
            "--count",
            str(count),
            "--rate",
            str(rate / SLOWNESS),
            "--size",
            str(size),
            "--json",
        ]
        words += [word for flow in flows for word in ("--flow", flow)]
        words += ["--source", source] if source else []
        self.process = Generator(namespace, "send", *words)

    def finish(self) -> dict[str, Any]:
        """Wait until all is sent."""
        report = self._report()
        assert report["sent"] == self.total
        return report

    def stop(self) -> int:
        """End it before all is sent; return how many were."""
        assert self.process.poll() is None, "it has sent everything: raise its count"
        self.process.send_signal(signal.SIGINT)
        return int(self._report()["sent"])

    def _report(self) -> dict[str, Any]:
        out = self.process.report(120 * SLOWNESS)
        assert out, "the sender ended without a report"
        report: dict[str, Any] = json.loads(out)
        return report


class Receiver:
    """The traffic generator, judging what arrives."""

    def __init__(self, namespace: Namespace, *flows: str, count: int | None = None, idle: float = 30.0) -> None:
        """Expect `count` packets of each flow ``G:P@IF[=NAME,…]``; returns once it has joined.

        Without a count `tell` or `expect_all_of` says how many there are.
        """
        words = ["--count", str(count or _PLENTY), "--idle-timeout", str(idle * SLOWNESS), "--json"]
        words += ["--read-total"] if count is None else []
        words += [word for flow in flows for word in ("--flow", flow)]
        self.process = Generator(namespace, "receive", *words, read_errors=True, write_input=count is None)
        assert self.process.stderr is not None
        ready = self.process.stderr.readline()
        assert ready == "ready\n", ready + self.process.stderr.read()

    def verdict(self) -> dict[str, Any]:
        """Wait until all has come, or nothing more does, and return the judgement."""
        out = self.process.report(120 * SLOWNESS)
        assert self.process.stderr is not None
        assert out, self.process.stderr.read()
        report: dict[str, Any] = json.loads(out)
        return report

    def expect_everything(self) -> dict[str, Any]:
        """Every payload, once and in order."""
        report = self.verdict()
        wrong = {name: report[name] for name in ("lost", "duplicated", "reordered", "corrupted", "foreign")}
        assert report["ok"], f"{wrong}, receiver's own drops {report['kernel_drops']}"
        return report

    def tell(self, sent: int) -> None:
        """How many were sent of each flow, unless it knows: only from then on it gives up when nothing comes."""
        if self.process.stdin:
            self.process.stdin.write(f"{sent}\n")
            self.process.stdin.flush()

    def expect_all_of(self, sent: int) -> None:
        """Every payload of a sender that was stopped, once and in order."""
        self.tell(sent)
        report = self.verdict()
        wrong = {name: report[name] for name in ("duplicated", "reordered", "corrupted", "foreign") if report[name]}
        assert (report["unique"], wrong) == (sent, {}), f"receiver's own drops {report['kernel_drops']}"


def words_for_group(group: str) -> list[str]:
    """Arguments of `mcrctl add` for a rule that takes a group from in0."""
    return f"--input-interface in0 --input-group {group} --input-port 5000 --outputs 239.2.2.2:6000:out0".split()
