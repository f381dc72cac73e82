"""Terminals, descriptors and signals: what mcrd is started from may go away, and a signal may come at any moment."""

import fcntl
import os
import random
import select
import signal
import struct
import termios
import time
from pathlib import Path

from mcr_process import BIN, SLOWNESS, Mcr, Receiver, Sender, children_of, wait_until
from topology import MakeMcr, Plant


def check_forwarding(plant: Plant) -> None:
    """Sixteen flows, which the workers share, arrive as a whole."""
    flows = [f"239.1.1.{number}:5000" for number in range(16)]
    outputs = [f"239.2.2.{number}:6000@rx0=239.1.1.{number}:5000" for number in range(16)]
    receiver = Receiver(plant.receiver, *outputs, count=100)
    Sender(plant.source, "src0", *flows, count=100, rate=10_000).finish()
    receiver.expect_everything()


def add_rules(mcr: Mcr) -> None:
    rule = {"interface": "in0", "port": 5000}
    output = {"interface": "out0", "port": 6000}
    numbers = range(16)
    rules = [
        {"input": rule | {"group": f"239.1.1.{each}"}, "outputs": [output | {"group": f"239.2.2.{each}"}]}
        for each in numbers
    ]
    mcr.call("add", {"rules": rules})


def test_mcrd_goes_on_when_its_terminal_is_closed(plant: Plant, make_mcr: MakeMcr) -> None:
    """The SIGHUP that comes to all in front of it is the daemon's alone, and what can't be written fails nothing."""
    terminal, slave = os.openpty()
    mcr = make_mcr(plant.relay, stdin=slave, stdout=slave, stderr=slave).start(2)
    os.close(slave)
    add_rules(mcr)
    mcr.call("log_level.set", {"level": "debug"})
    process = mcr.process
    assert process is not None
    before = set(mcr.worker_pids())
    wait_until(lambda: len(set(children_of(process.pid))) == 3, "two workers and a standby")
    children = set(children_of(process.pid))
    os.close(terminal)
    os.killpg(process.pid, signal.SIGHUP)  # as the kernel does when the shell has gone, too
    wait_until(lambda: mcr.call("log_level.get")["ingress"] == "info", "SIGHUP was heard")
    check_forwarding(plant)
    assert set(children_of(process.pid)) == children
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(mcr.worker_pids()) == 2 and not before & set(mcr.worker_pids()), "two successors")
    mcr.wait_for_workers()
    check_forwarding(plant)
    assert [worker["restarts"] for worker in mcr.workers()] == [1, 1]


def test_closed_descriptors_do_not_become_sockets(plant: Plant, make_mcr: MakeMcr) -> None:
    """What is meant for standard error would be sent by one."""
    mcr = make_mcr(plant.relay, prefix=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]).start()
    assert mcr.process is not None
    for pid in (mcr.process.pid, *mcr.worker_pids()):
        assert [Path(f"/proc/{pid}/fd/{number}").readlink() for number in (1, 2)] == [Path(os.devnull)] * 2


def test_signal_during_the_start_does_what_it_does_later(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    """At any moment: it ends in order, with status 0 and nothing left behind, or takes SIGHUP for what it is."""
    moments = random.Random()
    signals = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
    daemons = [(make_mcr(plant.relay, f"mcr-{number}", executed=True), signum) for number, signum in enumerate(signals)]
    for number, (mcr, signum) in enumerate(daemons):
        process = mcr.begin()
        wait_until(lambda pid=process.pid: is_python(pid), "bin/mcrd has become Python")
        time.sleep((number + moments.random()) / len(daemons) * 0.5)  # one in each part of the start
        process.send_signal(signum)
    for mcr, signum in daemons:
        if signum == signal.SIGHUP:
            wait_until(lambda each=mcr: "SIGHUP: log levels are" in each.log(), "it is up, and has heard it")
            assert {worker["restarts"] for worker in mcr.wait_for_workers()} == {0}
            mcr.stop()
        else:
            assert mcr.process is not None
            assert mcr.process.wait(30 * SLOWNESS) == 0, mcr.log()
            assert mcr.says(f"{signum.name}: stopping")
    assert list(tmp_path.glob("*.sock*")) == []


def test_top_shows_the_relay_and_follows_a_restart(plant: Plant, make_mcr: MakeMcr) -> None:
    """In a terminal of 80 columns, which is as before at the end; in a pipe it is text."""
    mcr = make_mcr(plant.relay).start()
    add_rules(mcr)
    terminal, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    top = plant.relay.popen(
        [BIN / "mcrctl", "top", "--control-socket", mcr.socket], stdin=slave, stdout=slave, stderr=slave
    )
    drawn = ""

    def shows(text: str) -> bool:
        """Whether the newest whole frame has it."""
        nonlocal drawn
        while select.select([terminal], [], [], 0)[0]:
            drawn += os.read(terminal, 1 << 16).decode()
        frames = drawn.split("\x1b[H")
        return len(frames) > 2 and text in frames[-2] + frames[-1]

    wait_until(lambda: shows("16 rules, all active"), "it shows the rules")
    sender = Sender(plant.source, "src0", "239.1.1.7:5000", count=100_000, rate=1_000)
    busiest = mcr.call("list")[7]["rule_id"]
    wait_until(lambda: shows(f"> \x1b[7m{busiest}"), "the rule with most packets comes first")
    os.write(terminal, b"\r")
    wait_until(lambda: shows("239.2.2.7:6000:out0"), "enter shows its outputs")
    sender.stop()
    mcr.stop()
    wait_until(lambda: shows("mcrd is away"), "it shows that mcrd is away")
    mcr.start()
    wait_until(lambda: shows("16 rules, all active"), "it goes on by itself")
    os.write(terminal, b"q")
    wait_until(lambda: shows("\x1b[?1049l") and top.poll() == 0, "q ends it")
    assert termios.tcgetattr(slave) == before
    os.close(terminal)
    os.close(slave)
    piped = mcr.ctl("top", "--filter", "239.1.1.7:").stdout
    assert [line.split()[:2] for line in piped.splitlines() if line.startswith(busiest)] == [[busiest, "active"]]
    assert "\x1b" not in piped


def is_python(pid: int) -> bool:
    """Whether bin/mcrd has done its part."""
    return b"mcr.cli.mcrd" in Path(f"/proc/{pid}/cmdline").read_bytes()
