"""A machine on which the commands of a document are typed, and what they print is compared with it."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forked import Forked, run_mcrctl
from lab import Lab, Running, environment_of
from mcr_process import BIN, SLOWNESS, Mcr, Sender, wait_until
from stage import CLONE_NEWNS, MNT_DETACH, MS_PRIVATE, MS_REC, check, libc, mount
from transcript import Block, Step, matches
from users import ADMIN, ALICE, MCR, Stage

NOT_RUN = {
    "sudo sysctl -w": "net.core.* is the whole machine's, and no namespace has its own",
}
"""Commands that are only looked at, by how they begin, and why."""


STANDS_IN = {
    "systemctl": "no systemd runs here: the unit's user, capabilities, directory and environment file, by this module",
    "journalctl": "nor a journal: what the daemon logged",
}
"""Programs that are replaced, and why and by what. The real ones are run in tests/packaging."""


# Commands that only look: what they show may take a moment to come true.
LOOKS = ("mcrctl stats", "mcrctl why", "mcrctl doctor", "mcrctl list", "mcrctl ping", "journalctl", "ip ", "pgrep")
_PATIENCE = 5.0 * SLOWNESS  # seconds
COUNTS = ("mcrctl stats", "mcrctl why", "mcrctl doctor", "mcrctl list-workers", "journalctl")  # show what goes on
FINDS = ("mcrctl why", "mcrctl doctor", "mcrctl config diff")  # their exit status says what they found
RIGHTS = ("net_raw", "bpf")
_AMBIENT = tuple(f"{option}=-all,+{',+'.join(RIGHTS)}" for option in ("--inh-caps", "--ambient-caps"))
_MCRCTL = re.compile(r"(?:sudo )?mcrctl(?: [\w./:,=-]+)*")
"""Commands that a shell does nothing about."""
_HOME = Path("/home/alice")


class Machine:
    """A relay with eth0 to eth2, a source behind eth0, receivers behind the others, and an operator, alice."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.source, self.relay, self.receiver = (lab.namespace(name) for name in ("source", "relay", "receiver"))
        lab.link(self.source, "src0", self.relay, "eth0", a_address="198.18.0.2/24", b_address="198.18.0.1/24")
        for i in (1, 2):
            lab.link(
                *(self.relay, f"eth{i}", self.receiver, f"rx{i}"),
                a_address=f"198.18.{i}.1/24",
                b_address=f"198.18.{i}.2/24",
            )
        self.stage = Stage(directory)
        self.etc, self.run_directory, self.home = (directory / name for name in ("etc", "run", "home"))
        shutil.copytree("/etc", self.etc, symlinks=True)
        for name in ("passwd", "group"):
            shutil.copy(directory / name, self.etc / name)
        for name in ("shadow", "gshadow"):
            (self.etc / name).unlink(missing_ok=True)
        (self.etc / "default" / "mcrd").unlink(missing_ok=True)
        self.run_directory.mkdir()
        (self.home / "alice").mkdir(parents=True)
        os.chown(self.home / "alice", ALICE, ALICE)
        self.state = directory / "state"  # in place of /var/lib
        self.state.mkdir()
        self.stage.over = [
            *((self.etc, Path("/etc")), (self.run_directory, Path("/run"))),
            *((self.home, Path("/home")), (self.state, Path("/var/lib"))),
        ]
        self.journal = directory / "journal"
        self.journal.touch()
        programs = directory / "bin"
        programs.mkdir()
        for name in ("mcrd", "mcrctl"):
            (programs / name).symlink_to(BIN / name)
        for name, script in (("sudo", 'exec env "$@"'), ("journalctl", f"exec cat {self.journal}")):
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        self.environment = {"HOME": str(_HOME), "PATH": f"{programs}:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}
        self.service: Running | None = None
        self.executes = False
        """Whether the service and mcrctl are executed; otherwise they are forked, where no shell is needed."""
        self._asked = Mcr(self.relay, directory)  # started by this class
        self._asked.socket = self.run_directory / "mcr" / "control.sock"
        self.groups(MCR, ADMIN)

    def groups(self, *numbers: int) -> None:
        """Have alice in these groups."""
        members = {MCR: "mcr", ADMIN: "mcr-admin"}
        lines = [f"root:x:0:\nalice:x:{ALICE}:\n"]
        lines += [f"{name}:x:{number}:{'alice' if number in numbers else ''}\n" for number, name in members.items()]
        (self.etc / "group").write_text("".join(lines))

    def _who(self, command: str) -> tuple[int, ...]:
        """Who types a command, after a new login: user and groups."""
        if "sudo " in command:
            return (0,)
        lines = [line.split(":") for line in (self.etc / "group").read_text().splitlines()]
        return ALICE, *(int(number) for _, _, number, members in lines if "alice" in members)

    def start_service(self) -> None:
        """As the unit does: user, capabilities, directory, environment file."""
        for directory in (self.run_directory / "mcr", self.state / "mcr"):
            directory.mkdir(mode=0o750, exist_ok=True)
            os.chown(directory, MCR, MCR)
        settings = self.etc / "default" / "mcrd"
        given = dict(line.split("=", 1) for line in settings.read_text().splitlines()) if settings.exists() else {}
        said = len(self.journal.read_text())
        environment = self.environment | {"STATE_DIRECTORY": "/var/lib/mcr"} | given
        words = [str(BIN / "mcrd"), "supervisor"]
        with self.journal.open("a") as log, Path(os.devnull).open() as nothing:
            if self.executes:
                prefix = self.stage.run_as(MCR, options=_AMBIENT)
                self.service = self.relay.popen([*prefix, *words], env=environment, stderr=log)
            else:
                self.service = Forked(
                    *("mcrd", words, self.relay, (nothing.fileno(), 1, log.fileno())),
                    environment=environment_of(environment),
                    forks_workers=True,
                    directory=Path("/"),
                    user=self.stage.user(MCR, ambient=RIGHTS),
                )
        wait_until(lambda: "is ready" in self.journal.read_text()[said:], "the service is ready")

    def stop_service(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """End it; its runtime directory goes with it, unless it is killed."""
        assert self.service is not None
        self.service.send_signal(signum)
        assert self.service.wait(5 * SLOWNESS) == (-signum if signum == signal.SIGKILL else 0)
        self.service = None

    @contextmanager
    def small_disk(self) -> Iterator[Path]:
        """Have the state on a disk of its own, which nobody else sees; where that is."""
        check(libc.unshare(CLONE_NEWNS), "unshare")
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        mount("tmpfs", str(self.state), "tmpfs", 0, "size=256k,mode=755")
        try:
            yield self.state
        finally:
            check(libc.umount2(str(self.state).encode(), MNT_DETACH), "umount")

    def reboot(self) -> None:
        """The service is stopped; what is not on a disk is gone; the service is started."""
        self.stop_service()
        for each in self.run_directory.iterdir():
            shutil.rmtree(each)
        self.start_service()

    def mcrctl(self, arguments: str) -> str:
        """What has been done before the document begins."""
        return str(self._asked.ctl(*arguments.split()).stdout)

    def call(self, method: str) -> Any:
        """What the daemon answers, without mcrctl: for what is asked again and again."""
        return self._asked.call(method)

    def queue(self, discipline: str) -> None:
        """Give eth1 a queueing discipline, tc(8)."""
        self.relay.run(["tc", "qdisc", "add", "dev", "eth1", "root", *discipline.split()])

    def workers(self) -> list[dict[str, Any]]:
        """As `mcrctl list-workers` shows them, once all run."""

        def running() -> list[dict[str, Any]] | None:
            workers: list[dict[str, Any]] = self.call("list_workers")
            return workers if all(worker["state"] == "running" for worker in workers) else None

        workers: list[dict[str, Any]] = wait_until(running, "all workers run")
        return workers

    def stop_workers_while(self, do: Callable[[], object]) -> None:
        """Keep the workers from running, for less time than would make mcrd replace them."""
        pids = [worker["pid"] for worker in self.workers()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        do()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def send(self, flow: str = "239.1.1.1:5000", source: str | None = None) -> None:
        """Have the source send for longer than a test takes."""
        Sender(self.source, "src0", flow, count=1_000_000, rate=500, source=source)

    def follow(self, block: Block) -> None:
        """Type the commands of a block, one after the other."""
        for step in block:
            self._type(step)

    def _type(self, step: Step) -> None:
        if step.command.startswith(tuple(NOT_RUN)):
            return
        if step.command == "sudo reboot":
            self.reboot()
            return
        if found := re.fullmatch(r"sudo systemctl (start|restart|reload) mcrd", step.command):
            self._systemctl(found[1])
        elif "mcrd supervisor" in step.command and not step.output.lstrip(".\n").startswith("Error: "):
            self._run_in_foreground(step)
        else:
            self._run(step)

    def _systemctl(self, verb: str) -> None:
        if verb == "reload":
            assert self.service is not None
            self.service.send_signal(signal.SIGHUP)
            return
        if self.service is not None:
            self.stop_service()
        self.start_service()

    def _run_in_foreground(self, step: Step) -> None:
        """A daemon that is started by hand: until what it says is what is shown, and then Ctrl-C."""
        said = self.journal.with_name("terminal")
        with said.open("w") as terminal:
            words = [*self.stage.run_as(*self._who(step.command)), *_shell(step)]
            daemon = self.relay.popen(words, env=self.environment, stderr=terminal)
        wait_until(lambda: matches(f"{step.output}\n...", _general(said.read_text())), f"as shown: {step.command}")
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(5 * SLOWNESS) == 0

    def _run(self, step: Step) -> None:
        fails = "Error: " in step.output
        deadline = time.monotonic() + (_PATIENCE if step.command.startswith(LOOKS) else 0)
        while True:
            done = self._do(step)
            printed = _general(self._here(step.command, str(done.stdout + done.stderr)))
            ends_well = done.returncode == 0 or (not fails and step.command.startswith(FINDS))
            counts = step.command.startswith(COUNTS)
            if ends_well is not fails and (not step.output or matches(step.output, printed, counts=counts)):
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{step.command}\n{printed}\nexit status {done.returncode}; shown is:\n{step.output}"
                )
            time.sleep(0.1)  # to look takes as much of a processor, if it is executed

    def _do(self, step: Step) -> subprocess.CompletedProcess[str]:
        """Execute it by a shell, or fork it, if that does the same."""
        who = self._who(step.command)
        if self.executes or not _MCRCTL.fullmatch(step.command):
            words = [*self.stage.run_as(*who), *_shell(step)]
            return self.relay.run(words, check=False, env=self.environment)
        words = step.command.removeprefix("sudo ").split()
        environment = environment_of(self.environment)
        return run_mcrctl(words, self.relay, environment, directory=_HOME, user=self.stage.user(*who))

    def _here(self, command: str, printed: str) -> str:
        """Without the daemons of other tests, which pgrep finds, too."""
        if not command.startswith("pgrep"):
            return printed
        assert self.service is not None
        network = _network(self.service.pid)
        assert network
        lines = printed.splitlines(keepends=True)
        return "".join(line for line in lines if _network(line.split()[0]) == network)


def _network(pid: int | str) -> int | None:
    """Which namespace a process is in; None: it has ended since it was found."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None


def _shell(step: Step) -> list[str]:
    command = step.command.replace("192.0.2.", "198.18.2.")
    return ["sh", "-c", f"cd; exec {command}" if "mcrd supervisor" in command else f"cd; {command}"]


def _general(printed: str) -> str:
    """With the paths and the addresses that the document has."""
    return printed.replace(str(BIN), "/usr/lib/mcr/bin").replace("198.18.2.", "192.0.2.")
