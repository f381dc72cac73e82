"""A lab is a network that works, belongs to one process, and is gone without a trace when that ends."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import Lab, LabError
from mcr_process import PATIENCE

TOOLS = Path(__file__).parents[2] / "tools"


def network_of(process: int | str) -> int:
    """Which network namespace a process, or `thread-self`, is in."""
    return Path(f"/proc/{process}/ns/net").stat().st_ino


def wait_for_end(pid: int) -> None:
    """Return when a process that need not be our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with open(handle, closefd=True):  # noqa: PTH123 - a descriptor, not a path
        assert select.select([handle], [], [], PATIENCE)[0], f"process {pid} is still there"


def test_a_datagram_crosses_a_link_as_soon_as_there_is_one(lab: Lab) -> None:
    for number in range(10):
        a, b = lab.namespace("a"), lab.namespace("b")
        lab.link(a, "a0", b, "b0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        with a.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with b.entered():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender, receiver:
            receiver.bind(("198.18.1.2", 5001))
            receiver.settimeout(PATIENCE)
            sender.sendto(b"%d" % number, ("198.18.1.2", 5001))
            assert receiver.recv(100) == b"%d" % number


def test_nothing_moves_on_a_link_by_itself(lab: Lab) -> None:
    a, b = lab.namespace("a"), lab.namespace("b")
    with b.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    with tap:
        lab.link(a, "a0", b, "b0", a_address="198.18.1.1/24", b_address="198.18.1.2/24")
        tap.settimeout(0.5)
        with pytest.raises(TimeoutError):
            tap.recv(100)


def test_the_thread_is_back_outside_after_the_block_and_after_an_error(lab: Lab) -> None:
    inside, home = lab.namespace("inside"), network_of("thread-self")
    with inside.entered():
        assert network_of("thread-self") != home
    assert network_of("thread-self") == home
    with pytest.raises(ZeroDivisionError), inside.entered():
        raise ZeroDivisionError
    assert network_of("thread-self") == home


def test_only_the_thread_that_enters_is_inside(lab: Lab) -> None:
    inside, home = lab.namespace("inside"), network_of("thread-self")
    seen: list[int] = []
    with inside.entered():
        thread = threading.Thread(target=lambda: seen.append(network_of("thread-self")))
    thread.start()
    thread.join()
    assert seen == [home]


def test_a_process_is_inside_and_its_pid_is_the_commands_own(lab: Lab) -> None:
    inside = lab.namespace("inside")
    process = inside.popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == "hello\n"  # by now setpriv has become cat
    assert Path(f"/proc/{process.pid}/comm").read_text(encoding="ascii") == "cat\n"
    assert network_of(process.pid) == os.fstat(inside.fd).st_ino


def test_run_returns_what_was_printed_and_raises_what_went_wrong(lab: Lab) -> None:
    inside = lab.namespace("inside")
    assert inside.run(["echo", "hello"]).stdout == "hello\n"
    assert inside.run(["cat"], input="hello").stdout == "hello"
    assert inside.run(["false"], check=False).returncode == 1
    with pytest.raises(LabError, match=r"In inside: ls /nosuch: exit status 2: .*No such file"):
        inside.run(["ls", "/nosuch"])
    with pytest.raises(LabError, match="No such program: nosuch"):
        inside.run(["nosuch"])
    with pytest.raises(LabError, match="No such program: nosuch"):
        inside.popen(["nosuch"])
    with pytest.raises(LabError, match="no end after"):
        inside.run(["sleep", "60"], timeout=0.01)


def test_ip_speaks_of_the_namespace_and_passes_its_complaints_on(lab: Lab) -> None:
    inside = lab.namespace("inside")
    links = json.loads(inside.ip("-json link show"))
    assert [(link["ifname"], "UP" in link["flags"]) for link in links] == [("lo", True)]
    with pytest.raises(LabError, match="nosuch0"):
        inside.ip("link set dev nosuch0 up")
    with pytest.raises(LabError, match="nosuch0"):
        inside.bring_up("nosuch0")


def test_a_parameter_set_in_one_namespace_stays_there(lab: Lab) -> None:
    a, b = lab.namespace("a"), lab.namespace("b")
    for namespace, value in ((a, "1"), (b, "2")):
        namespace.sysctl("net.ipv4.conf.all.rp_filter", value)
    path = "/proc/sys/net/ipv4/conf/all/rp_filter"
    assert (a.run(["cat", path]).stdout, b.run(["cat", path]).stdout) == ("1\n", "2\n")


@pytest.mark.parametrize("gso", [True, False])
def test_super_frames_cross_whole_or_not_as_asked(lab: Lab, gso: bool) -> None:
    a, b = lab.namespace("a"), lab.namespace("b")
    lab.link(a, "a0", b, "b0", a_address="198.18.1.1/24", b_address="198.18.1.2/24", gso=gso)
    with b.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with a.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with tap, sender:
        tap.bind(("b0", 0x0800))
        tap.settimeout(PATIENCE)
        sender.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.1.1"))
        sender.sendto(b"x" * 400, ("239.1.1.1", 5001))
        assert len(tap.recv(2000)) == 28 + (400 if gso else 100)


def test_a_bridge_forwards_a_group_to_who_asked_for_it_and_to_nobody_else(lab: Lab) -> None:
    switch = lab.namespace("switch")
    hosts = [lab.namespace(f"host{number}") for number in range(3)]
    for number, host in enumerate(hosts):
        lab.link(switch, f"p{number}", host, "eth0", b_address=f"198.18.1.{number + 1}/24")
    lab.bridge(switch, "br0", ports=["p0", "p1", "p2"])
    udp: list[socket.socket] = []
    for host in hosts:
        with host.entered():
            udp.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with hosts[2].entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    source, member, stranger = udp
    with source, member, stranger, tap:
        member.bind(("239.1.1.1", 5001))
        member.settimeout(PATIENCE)
        join = socket.inet_aton("239.1.1.1") + socket.inet_aton("198.18.1.2")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        deadline = time.monotonic() + PATIENCE
        while "grp 239.1.1.1" not in switch.run(["bridge", "mdb", "show"]).stdout:
            assert time.monotonic() < deadline, "the bridge has not heard that anybody wants the group"
            time.sleep(0.01)
        source.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("198.18.1.1"))
        tap.settimeout(PATIENCE)

        def stranger_sees() -> list[bytes]:
            """What comes to the stranger, up to what is sent to it after the group's."""
            source.sendto(b"to the group", ("239.1.1.1", 5001))
            source.sendto(b"to the stranger", ("198.18.1.3", 5001))
            assert member.recv(100) == b"to the group"
            seen = [tap.recv(2000)]
            while not seen[-1].endswith(b"to the stranger"):
                seen.append(tap.recv(2000))
            return seen

        # While the querier waits for answers, the bridge forwards everything to everybody.
        while any(each.endswith(b"to the group") for each in stranger_sees()):
            assert time.monotonic() < deadline, "the stranger still gets the group"
            time.sleep(0.01)


def test_the_end_of_a_lab_is_the_end_of_its_processes() -> None:
    with Lab() as lab:
        process = lab.namespace("inside").popen(["sleep", "600"], stdout=subprocess.PIPE)
    assert process.returncode == -signal.SIGTERM
    assert process.stdout
    assert process.stdout.closed


def test_a_process_that_does_not_end_when_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab._STOP_TIMEOUT_S", 0.01)
    with Lab() as lab:
        process = lab.namespace("inside").popen(
            ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"], stdout=subprocess.PIPE
        )
        assert process.stdout
        assert process.stdout.readline() == "deaf\n"
    assert process.returncode == -signal.SIGKILL


def test_a_failure_inside_the_block_ends_the_processes_too() -> None:
    with contextlib.suppress(ZeroDivisionError), Lab() as lab:
        process = lab.namespace("inside").popen(["sleep", "600"])
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGTERM


OWNER = """
import subprocess, sys
from lab import Lab, enter_user_namespace
enter_user_namespace()
with Lab() as lab:
    a, b = lab.namespace("a"), lab.namespace("b")
    lab.link(a, "a0", b, "b0")
    child = a.popen(["sh", "-c", "echo started; exec sleep 600"], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_owner_is_killed(number: signal.Signals) -> None:
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=TOOLS
    ) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        owner.send_signal(number)
    wait_for_end(child)


@pytest.mark.slow
def test_an_ordinary_user_can_have_a_lab() -> None:
    """As root we become one first, who may read this Python wherever it is; an ordinary user is one already."""
    reader = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    become = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *reader]
    is_root = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    done = subprocess.run(
        [*(become if is_root else ()), sys.executable, "-c", OWNER],
        input="",
        capture_output=True,
        text=True,
        cwd=TOOLS,
        check=False,
    )
    if is_root and "This user may not make network namespaces" in done.stderr:
        pytest.skip("user namespaces are forbidden to ordinary users on this machine (or root is in a chroot)")
    assert done.returncode == 0, done.stderr
