"""docs/troubleshooting.md, followed to the letter: every section's trouble is caused, its commands are typed, and what
they print is what the document shows.

A scenario stands for each heading. It has a machine of its own: network, /etc, /run and /home are seen by its commands
alone. What is typed is typed by alice, or where the command says sudo by root.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from firewalls import close_firewall
from guided_machine import (
    NOT_RUN,
    STANDS_IN,
    Machine,
)
from lab import Lab
from mcr.cli.mcrctl import cli
from mcr.cli.supervisor import mcrd
from mcr_process import BIN, Sender, wait_until
from topology import needs_root
from transcript import matches, read_sections, table_rows
from users import MCR

DOCUMENT = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
TEXT = DOCUMENT.read_text()
SECTIONS = read_sections(TEXT)


ADD = "add --input-interface eth0 --input-group 239.1.1.1 --input-port 5000"
SPORT = """[[rule]]
name = "sport"
input = { interface = "eth0", group = "239.1.1.3", port = 5000 }
outputs = ["239.2.2.3:6000:eth1"]
"""
NEWS = f"{ADD} --outputs 239.2.2.2:6000:eth1 --name news"


# What is wrong, by the heading it is told under. What stands behind a yield has to be true at the end.

Scenario = Callable[[Machine], Iterator[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(heading: str) -> Callable[[Scenario], Scenario]:
    def enter(function: Scenario) -> Scenario:
        SCENARIOS[heading] = function
        return function

    return enter


@scenario("Ask MCR first")
def ask_first(machine: Machine) -> Iterator[None]:
    """Here all is executed, by the service's user and by alice."""
    machine.executes = True
    machine.start_service()
    machine.mcrctl(NEWS)
    machine.send()
    yield


@scenario("Operation not permitted")
def no_capability(machine: Machine) -> Iterator[None]:
    """What is changed is the program itself, also for the service."""
    machine.executes = True
    copy = machine.stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", copy)
    machine.stage.over.append((copy, BIN / "mcrd"))
    yield


@scenario("Failed to bind: the directory")
def no_directory(machine: Machine) -> Iterator[None]:
    copy = machine.stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", copy)
    subprocess.run(["setcap", "cap_net_raw,cap_setuid,cap_setgid=eip", copy], check=True)
    machine.stage.over.append((copy, BIN / "mcrd"))
    yield


@scenario("Failed to bind: in use")
def in_use(machine: Machine) -> Iterator[None]:
    """By a process that is known by its name."""
    machine.executes = True
    machine.start_service()
    yield


@scenario("A socket that is left over")
def left_over(machine: Machine) -> Iterator[None]:
    """First what is said of it; then, in the document, a file."""
    machine.start_service()
    machine.stop_service(signal.SIGKILL)
    left = machine.run_directory / "mcr" / "control.sock"
    assert left.is_socket()
    machine.start_service()
    machine.stop_service()
    left.write_text("no socket")
    yield


@scenario("A setting that cannot be used")
def wrong_setting(_: Machine) -> Iterator[None]:
    yield


@scenario("No such file or directory")
def nobody_there(_: Machine) -> Iterator[None]:
    yield


@scenario("Connection refused")
def killed(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.stop_service(signal.SIGKILL)
    yield


@scenario("Permission denied")
def stranger(machine: Machine) -> Iterator[None]:
    machine.groups()
    machine.start_service()
    yield


@scenario("May read, but not change")
def looker(machine: Machine) -> Iterator[None]:
    machine.groups(MCR)
    machine.start_service()
    yield


@scenario("Interface not found")
def no_interface(machine: Machine) -> Iterator[None]:
    machine.start_service()
    yield


@scenario("Rule already exists")
def second_rule(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(NEWS)
    yield


@scenario("Rules can't be saved")
def disk_full(machine: Machine) -> Iterator[None]:
    with machine.small_disk() as left_over:
        machine.start_service()
        machine.mcrctl(NEWS)
        machine.stop_service()
        fill(left_over / "core.1234")
        machine.start_service()
        yield
        assert len(machine.call("list")) == 2
        machine.stop_service()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@scenario("What was applied is gone again")
def not_confirmed(machine: Machine) -> Iterator[None]:
    (machine.etc / "mcr").mkdir()
    machine.start_service()
    (machine.etc / "mcr" / "mcr.toml").write_text(SPORT)
    machine.mcrctl("config apply --confirm 1")
    wait_until(lambda: not machine.call("list"), "it is taken back")
    yield
    assert len(machine.call("list")) == 1


@scenario("Rules are missing after a start")
def damaged_file(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(NEWS)
    machine.stop_service()
    (machine.state / "mcr" / "rules.sqlite").write_bytes(b"x" * 10_000)
    machine.start_service()
    yield


@scenario("Packets arrive, and no rule takes them")
def another_port(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(NEWS)
    machine.send("239.1.1.1:5001")
    yield


@scenario("Nothing arrives")
def nothing(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(NEWS)
    yield


@scenario("Sending fails")
def output_down(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(NEWS)
    machine.relay.ip("link set dev eth1 down")
    machine.send()
    yield


@scenario("Sent, and not received")
def silent_neighbour(machine: Machine) -> Iterator[None]:
    machine.start_service()
    machine.mcrctl(f"{ADD} --outputs 198.18.2.9:6000:eth2 --name news")
    machine.send()
    yield


@scenario("The capture ring was full")
def ring_full(machine: Machine) -> Iterator[None]:
    """A small one, and a worker that does not run."""
    (machine.etc / "default" / "mcrd").write_text("MCR_BUFFER_POOL_SMALL=64\n")
    machine.start_service()
    machine.mcrctl(NEWS)
    machine.stop_workers_while(
        lambda: Sender(machine.source, "src0", "239.1.1.1:5000", count=500, rate=50_000).finish()
    )
    yield


@scenario("A worker exits")
def worker_dies(machine: Machine) -> Iterator[None]:
    machine.start_service()
    os.kill(machine.workers()[0]["pid"], signal.SIGSEGV)
    yield


@scenario("Tuning")
def tuning(machine: Machine) -> Iterator[None]:
    machine.start_service()
    yield


@scenario("Limits of the system")
def limits(_: Machine) -> Iterator[None]:
    yield


@scenario("Processors")
def processors(_: Machine) -> Iterator[None]:
    yield


@scenario("Getting help")
def getting_help(machine: Machine) -> Iterator[None]:
    machine.start_service()
    yield
    levels = {"info"}  # systemd would wait for the reload, a signal does not
    wait_until(lambda: set(json.loads(machine.mcrctl("log-level get --json")).values()) == levels, "those of the start")


@pytest.fixture
def machine(lab: Lab, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(lab, tmp_path)
    yield made
    if made.service is not None:
        made.stop_service()
    made.stage.close()


@needs_root
@pytest.mark.parametrize("heading", SECTIONS)
def test_section_is_true(machine: Machine, heading: str) -> None:
    trouble = SCENARIOS[heading](machine)
    next(trouble)
    for block in SECTIONS[heading]:
        machine.follow(block)
    assert next(trouble, None) is None


def small_buffer_and_slow_output(machine: Machine) -> None:
    (machine.etc / "default" / "mcrd").write_text("MCR_SOCKET_SNDBUF=4096\n")
    machine.queue("tbf rate 8kbit burst 2000 limit 1000000")


NOBODY_S = "Cannot assign requested address (os error 99)"
ERRORS: dict[str, Callable[[Machine], object]] = {
    NOBODY_S: lambda _: None,  # its cause are the packets
    "Network is unreachable (os error 101)": lambda machine: machine.relay.ip("link set dev eth1 down"),
    "Network is down (os error 100)": lambda machine: machine.receiver.ip("link set dev rx1 down"),
    "Operation not permitted (os error 1)": lambda machine: close_firewall(machine.relay, "output", "input"),
    "Resource temporarily unavailable (os error 11)": small_buffer_and_slow_output,
}
"""What causes the errors in the table of them."""


@needs_root
@pytest.mark.parametrize("row", table_rows(TEXT, "Sending fails"), ids=lambda row: row[0])
def test_error_of_an_output_has_the_cause_that_it_is_told_with(machine: Machine, row: list[str]) -> None:
    error = row[0].strip("`")
    ERRORS[error](machine)
    machine.start_service()
    if error == NOBODY_S:  # who has no address yet may send to the groups of a link alone
        machine.mcrctl(NEWS.replace("239.1.1.1", "224.0.0.251").replace(":eth1", ":eth1:source=keep"))
        machine.send("224.0.0.251:5000", source="0.0.0.0")  # noqa: S104
    else:
        machine.mcrctl(NEWS)
        machine.send()

    def last_error() -> str | None:
        (rule,) = machine.call("stats")["rules"]
        return str(rule["outputs"][0]["last_error"])

    wait_until(lambda: last_error() == error, f"sending fails: {error}")


@needs_root
def test_a_queue_that_is_full_is_no_error_of_the_output(machine: Machine) -> None:
    """As the document says: it counts as sent, and in the queue as dropped."""
    machine.queue("pfifo limit 0")
    machine.start_service()
    machine.mcrctl(NEWS)
    Sender(machine.source, "src0", "239.1.1.1:5000", count=100, rate=10_000).finish()
    wait_until(lambda: machine.call("stats")["egress"]["sent"] == 100, "all count as sent")
    shown = machine.relay.run(["tc", "-s", "qdisc", "show", "dev", "eth1"]).stdout
    assert re.search(r"\(dropped [1-9]", shown), shown


def test_commands_within_the_text_exist() -> None:
    for words in re.findall(r"`(mcr(?:ctl|d) [^`]*)`", TEXT):
        program, command, *_ = words.split()
        assert command in {"mcrctl": cli, "mcrd": mcrd}[program].commands, words


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("Error: x (os error 13)", "Error: x (os error 13)\n", True),
        ("Error: x (os error 13)", "Error: x (os error 1)\n", False),
        ("recv 1,204  500 pps", "  recv     7   1.5 pps", True),
        ("recv 1,204", "recv 0", False),
        ("recv 0", "recv 1,204", False),
        ("G:5000 on eth0", "G:5001 on eth0", False),
        ("one\n...\nfour", "one\ntwo\nthree\nfour", True),
        ("one\n...\nfour", "one\nfour", True),
        ("one\n...", "two\none", False),
        ("one ... four", "one\nfour", False),
        ("process 4242 ended", "process 7 ended", True),
    ],
)
def test_what_is_printed_is_compared_with_what_is_shown(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed, counts=True) is same


def test_there_is_a_section_for_every_scenario() -> None:
    assert set(SECTIONS) == set(SCENARIOS)


def test_what_is_not_run_is_in_the_document() -> None:
    """Nothing stays excused that nobody asks for any more."""
    commands = [step.command for blocks in SECTIONS.values() for block in blocks for step in block]
    for excused in (*NOT_RUN, *STANDS_IN):
        assert any(excused in command for command in commands), excused
