"""`mcrctl doctor` and `mcrctl report` say what is wrong: each fault is made for real."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from firewalls import close_firewall
from lab import end
from mcr.config.output_text import parse_output
from mcr_process import BIN, Mcr, Sender, wait_until
from seccomp import WITHOUT_IO_URING
from topology import MakeMcr, Plant

OF_THE_TEST_MACHINE = {"backlog", "send_buffer", "copy_buffer", "filter", "io_uring"}
"""What doctor may have to say of the machine that tests run on: others use it, and users may not have everything."""

Findings = dict[str, dict[str, Any]]


def examine(mcr: Mcr, status: int | None = None) -> Findings:
    """What doctor finds, by check, the worst of each; its exit status is as it should be."""
    done = mcr.ctl("doctor", "--json", check=False)
    findings = json.loads(done.stdout)
    worst = max(("ok", "advice", "fault").index(finding["verdict"]) for finding in findings)
    assert done.returncode == worst, done.stdout
    assert status in (None, worst), done.stdout
    return {finding["check"]: finding for finding in reversed(findings)}  # the worst come first


def bad(findings: Findings) -> set[str]:
    return {check for check, finding in findings.items() if finding["verdict"] != "ok"}


def send(plant: Plant, mcr: Mcr, count: int = 100) -> None:
    """Packets from src0, and wait until they are counted."""
    Sender(plant.source, "src0", "239.1.1.1:5000", count=count, rate=10_000).finish()
    mcr.check_counters(arrived=count)


def test_healthy_relay_is_fine(plant: Plant, make_mcr: MakeMcr) -> None:
    """Nothing but ok, with a line for each, by whatever name rules know an interface; reading it changes nothing."""
    plant.relay.ip("link property add dev in0 altname input-one")
    mcr = make_mcr(plant.relay).start(len(os.sched_getaffinity(0)))
    assert bad(examine(mcr)) <= OF_THE_TEST_MACHINE
    mcr.add("input-one:239.1.1.1:5000", "239.2.2.2:6000:out0")
    send(plant, mcr)
    before = mcr.stats()
    findings = examine(mcr)
    assert bad(findings) <= OF_THE_TEST_MACHINE
    assert {"kernel", "io_uring", "memlock", "open_files", "memberships", "capabilities"} <= findings.keys()
    assert {"worker_privileges", "workers", "cores", "kernel_drops", "buf_exhaust", "parse_err"} <= findings.keys()
    assert {"matched", "egress_errors", "log_dropped", "interfaces", "reverse_path", "group_route"} <= findings.keys()
    assert (
        findings["worker_privileges"]["what"] == "Workers have no privileges, and only the system calls that they need"
    )
    assert mcr.stats()["ingress"]["recv"] == before["ingress"]["recv"]
    lines = mcr.ctl("doctor", check=False).stdout.splitlines()
    assert any(line.startswith("ok      Linux ") for line in lines)


def test_missing_capabilities_are_named(plant: Plant, make_mcr: MakeMcr) -> None:
    kept = "--bounding-set=-net_admin,-bpf,-sys_admin"
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_SOCKET_SNDBUF=1073741824", "setpriv", kept, "--"]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    findings = examine(mcr, status=1)
    assert bad(findings) - OF_THE_TEST_MACHINE == {"cap_net_admin", "cap_bpf"}
    assert "sudo sysctl -w net.core.wmem_max=1073741824" in findings["send_buffer"]["remedy"]
    assert findings["filter"]["what"].startswith("Classic socket filters")
    assert "cannot be seen" in findings["firewall_output"]["evidence"]


def test_forbidden_io_uring_is_told_with_who_forbids_it(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, prefix=WITHOUT_IO_URING).start()
    finding = examine(mcr, status=1)["io_uring"]
    assert "not available (Operation not permitted (os error 1)): workers run on poll" in finding["what"]
    assert "Seccomp: 2" in finding["evidence"] or "kernel.io_uring_disabled" in finding["evidence"]


def test_output_that_is_down_is_a_fault_with_its_errors(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.1:6001:out0", "239.2.2.2:6002:out1")
    plant.relay.ip("link set dev out0 down")
    send(plant, mcr)
    findings = examine(mcr, status=2)
    assert findings["interfaces"]["what"] == "Interface out0 is down, and rules name it"
    assert findings["interfaces"]["remedy"] == "sudo ip link set dev out0 up"
    assert findings["egress_errors"]["verdict"] == "fault"
    assert findings["egress_errors"]["what"].startswith("100 packets (100.00%) were not sent to 239.2.2.1:6001:out0")
    assert bad(findings) - OF_THE_TEST_MACHINE == {"interfaces", "egress_errors"}
    plant.relay.ip("link delete dev out0")
    assert examine(mcr, status=2)["interfaces"]["what"] == "Interface out0 is gone, and rules name it"


def test_interface_that_was_deleted_is_a_fault_until_it_is_made_again(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.1:6001:out0")
    for number, (name, there) in enumerate((("in0", plant.source), ("out0", plant.receiver))):
        plant.relay.ip(f"link delete dev {name}")
        assert examine(mcr, status=2)["interfaces"]["what"] == f"Interface {name} is gone, and rules name it"
        network = f"198.18.{8 + number}"
        plant.lab.link(plant.relay, name, there, "again0", a_address=f"{network}.1/24", b_address=f"{network}.2/24")
        assert examine(mcr)["interfaces"]["what"] == "Up: in0, out0"


def test_settings_of_interfaces_that_hinder_are_named(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.1:6001:out0")
    second = {"interface": "in0", "group": "239.1.1.2", "port": 5000}
    outputs = [parse_output("239.2.2.1:6001:out0"), parse_output("239.2.2.2:6001:out1:source=198.18.9.9")]
    (added,) = mcr.call("add", {"rules": [{"input": second, "outputs": outputs}]})
    assert "239.2.2.1:6001:out0 is an output of rule" in added["warnings"][0]
    for name, value in (("all.rp_filter", "1"), ("in0.force_igmp_version", "2")):
        plant.relay.sysctl(f"net.ipv4.conf.{name}", value)
    plant.relay.ip("address flush dev in0")
    plant.relay.ip("address flush dev out0")
    plant.receiver.ip("link set dev rx0 down")
    findings = examine(mcr, status=2)
    assert bad(findings) - OF_THE_TEST_MACHINE == {
        "reverse_path",
        "igmp_version",
        "input_address",
        "source_address",
        "interfaces",
        "rule_waits",
        "shared_output",
    }
    assert findings["rule_waits"]["what"] == "its source 198.18.9.9 is not an address of this machine"
    assert findings["interfaces"]["what"] == "Interface out0 has no carrier, and rules name it"


def test_crashed_worker_is_told(plant: Plant, make_mcr: MakeMcr) -> None:
    """Whatever the signal, in the log; with signal, time and count by list-workers and doctor."""
    mcr = make_mcr(plant.relay).start()

    def crash(signum: signal.Signals) -> tuple[int, dict[str, Any]]:
        """The process that was, and the worker that takes its place by itself."""
        (pid,) = mcr.worker_pids()
        os.kill(pid, signum)
        wait_until(lambda: mcr.worker_pids() not in ([pid], []), "a successor")
        (worker,) = mcr.wait_for_workers()
        return pid, worker

    pid, worker = crash(signal.SIGSEGV)
    assert worker["restarts"] == 1
    assert worker["last_exit"].endswith("Z killed by signal 11 (SIGSEGV)")
    assert mcr.says(
        f" error [supervisor] Worker process exited unexpectedly: worker 0 (pid {pid}) killed by signal 11 (SIGSEGV); "
        "restart 1 in 0.0 s\n"
    )
    assert "killed by signal 11 (SIGSEGV)" in mcr.ctl("list-workers").stdout
    findings = examine(mcr, status=1)
    assert findings["workers"]["what"] == "Worker 0 has exited unexpectedly once and was replaced"
    assert findings["workers"]["evidence"].endswith("killed by signal 11 (SIGSEGV)")
    assert bad(findings) - OF_THE_TEST_MACHINE == {"workers"}
    for signum in (signal.SIGABRT, signal.SIGBUS):
        pid, _ = crash(signum)
        assert mcr.says(f"unexpectedly: worker 0 (pid {pid}) killed by signal {signum:d} ({signum.name})")


@pytest.mark.usefixtures("worker_path")
def test_full_ring_is_told_with_a_larger_one(plant: Plant, make_mcr: MakeMcr) -> None:
    """It is smaller than a batch was asked to be, and no slot of it is read twice: the counters say so."""
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=64", "MCR_NUM_RECV_BUFFERS=256"]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    (pid,) = mcr.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=0).finish()
    os.kill(pid, signal.SIGCONT)
    mcr.check_counters(arrived=1000)
    finding = examine(mcr, status=2)["kernel_drops"]
    assert finding["verdict"] == "fault"
    assert finding["what"].startswith("936 packets on in0 were lost, 93.60% of what arrived: the capture ring was full")
    assert "MCR_BUFFER_POOL_SMALL=128" in finding["remedy"]


def test_rules_that_nothing_matches_are_told(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5001", "239.2.2.2:6000:out0", rule_id="wrong-port")
    send(plant, mcr)
    finding = examine(mcr, status=1)["matched"]
    assert (finding["verdict"], finding["remedy"]) == ("advice", "mcrctl why wrong-port")
    strays = Sender(plant.source, "src0", "239.1.1.1:5000", count=100_000, rate=1_000)
    seen = "but 239.1.1.1:5000 does, which no rule takes"
    wait_until(lambda: seen in examine(mcr, status=1)["matched"]["what"], "doctor sees what arrives instead")
    end(strays.process)
    mcr.add("in0:239.1.1.1:5000", "198.18.1.99:6000:out0", rule_id="nobody-there")
    assert "On out0 the host 198.18.1.99 does not answer ARP" in examine(mcr, status=2)["neighbours"]["what"]


def test_firewall_that_drops_is_named(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    close_firewall(plant.relay, "output", "input")
    send(plant, mcr)
    findings = examine(mcr, status=2)
    assert findings["firewall_output"]["what"] == "A firewall rule drops what is sent to 239.2.2.2:6000:out0"
    assert "table ip closed, chain output: 0 rules, policy drop" in findings["firewall_output"]["evidence"]
    assert "nft insert rule ip closed input ip protocol igmp accept" in findings["firewall_input"]["remedy"]


def test_without_a_daemon_the_machine_is_checked(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay)
    findings = examine(mcr, status=2)
    assert findings["daemon"]["verdict"] == "fault"
    assert findings["daemon"]["what"] == "mcrd cannot be asked: No such file or directory (os error 2)"
    assert str(mcr.socket) in findings["daemon"]["evidence"]
    assert f"start it: sudo mcrd supervisor --control-socket {mcr.socket}" in findings["daemon"]["remedy"]
    assert {"kernel", "io_uring", "send_buffer", "open_files", "firewall_output"} <= findings.keys()
    assert bad(findings) <= OF_THE_TEST_MACHINE | {"daemon"}


# The report


ELSEWHERE = """
import os, socket, sys
socket.sethostname("name-of-the-host")
os.environ["SECRET"] = "of-the-client"
os.execv(sys.argv[1], sys.argv[1:])
"""


def report(mcr: Mcr, directory: Path) -> str:
    """What `mcrctl report` writes into a directory, on a host with a name and in an environment with a secret."""
    command: list[str | Path] = ["unshare", "--uts", sys.executable, "-c", ELSEWHERE, BIN / "mcrctl", "report"]
    done = mcr.namespace.run([*command, "--control-socket", mcr.socket], cwd=directory)
    (file,) = directory.glob("mcr-report-*.txt")
    assert done.stdout == f"Wrote {file.name}; read it before you pass it on\n"
    return file.read_text()


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n== ")[1:]
    return {name: body for name, _, body in (part.partition(" ==\n\n") for part in parts)}


def test_report_holds_what_helps_and_no_secret(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    mcr = make_mcr(plant.relay, prefix=["env", "MCR_BUFFER_POOL_SMALL=100", "SECRET=of-the-daemon"]).start()
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0", rule_id="the-rule")
    os.kill(mcr.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: mcr.workers()[0]["restarts"] == 1, "its death is noticed")
    mcr.wait_for_workers()
    text = report(mcr, tmp_path)
    told = sections(text)
    assert "Not available" not in text
    assert "mcrd 0" in told["Versions"]
    assert os.uname().release in told["System"]
    assert "has exited unexpectedly once" in told["Findings of mcrctl doctor"]
    assert "the-rule" in told["Rules"]
    assert "io_uring" in told["Workers"] or "poll" in told["Workers"]
    assert '"kernel_drops": 0' in told["Statistics"]
    assert "MCR_BUFFER_POOL_SMALL" in told["Settings"]
    assert "in0: up, mtu 1500, 198.18.0.2/24" in told["Interfaces that mcrctl sees"]
    memberships = told["Group memberships of all programs"].splitlines()
    assert any(line.startswith("in0, V") and "239.1.1.1" in line for line in memberships)
    assert "net.core.wmem_max" in told["Kernel parameters"]
    assert "killed by signal 9 (SIGKILL)" in told["Newest warnings and errors of mcrd"]
    link = json.loads(plant.relay.ip("-json link show dev in0"))[0]
    for secret in ("of-the-daemon", "of-the-client", "name-of-the-host", link["address"]):
        assert secret not in text


def test_report_is_written_without_a_daemon(plant: Plant, make_mcr: MakeMcr, tmp_path: Path) -> None:
    mcr = make_mcr(plant.relay)
    told = sections(report(mcr, tmp_path))
    assert "mcrd cannot be asked: No such file or directory (os error 2)" in told["Versions"]
    assert told["Rules"].startswith("mcrd cannot be asked: No such file or directory")
    assert "in0: up" in told["Interfaces that mcrctl sees"]
    assert "Linux" in told["Findings of mcrctl doctor"]


def test_report_overwrites_nothing(plant: Plant, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    done = plant.relay.run([BIN / "mcrctl", "report", "--output", kept], check=False)
    assert (done.returncode, kept.read_text()) == (1, "kept")
    assert done.stderr.startswith(f"Error: Cannot write {kept}: File exists (os error 17)\nhint: ")
