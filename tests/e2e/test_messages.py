"""What an operator reads when something is wrong: caused for real, and gone once the hint was followed.

Who may do what is in test_privileges.py, what becomes of packets in test_why.py.
"""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import Lab, Namespace
from mcr_process import BIN, SLOWNESS, Mcr, wait_until, words_for_group
from topology import MakeMcr, Plant, needs_root
from users import MCR, Stage

SECCOMP = Path(__file__).with_name("seccomp.py")
WITHOUT_PACKET_SOCKETS = Path(__file__).with_name("without_packet_sockets.py")
UNITS = Path(__file__).parents[2] / "packaging" / "systemd"


def start_and_fail(namespace: Namespace, *words: str | Path) -> list[str]:
    """Run a program that is to end at once with status 1; return its error and hints."""
    done = namespace.run(words, check=False, timeout=60 * SLOWNESS)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    return refusal(done.stderr)


def refusal(said: str) -> list[str]:
    """The error and its hints, after whatever was logged before."""
    lines = said.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("Error: ")) :]


def test_a_missing_right_to_capture_is_told_with_the_three_ways_to_grant_it(plant: Plant) -> None:
    """With either number that the kernel gives; nothing is left behind, and with the right it starts."""
    supervisor = (BIN / "mcrd", "supervisor", "--no-state", "--control-socket", "/nonexistent/mcr/control.sock")
    causes: dict[str, tuple[str | Path, ...]] = {
        "Error: Operation not permitted (os error 1)": ("setpriv", "--bounding-set=-net_raw"),
        "Error: Permission denied (os error 13)": (sys.executable, WITHOUT_PACKET_SOCKETS),
    }
    for error, prefix in causes.items():
        said = start_and_fail(plant.relay, *prefix, *supervisor)
        assert said == [
            error,
            "hint: AF_PACKET socket creation failed: mcrd needs the capability CAP_NET_RAW and does not have it",
            "hint: root lacks it here: if this is a container, start it with --cap-add NET_RAW",
            f"hint: to develop: sudo setcap cap_net_raw,cap_setuid,cap_setgid=eip {BIN / 'mcrd'}",
            "hint: in production: run it under systemd by packaging/systemd/mcrd.service, which grants it",
        ]
    # With the right it comes to the next thing that is wrong here.
    assert start_and_fail(plant.relay, *supervisor)[0].startswith("Error: Failed to bind to /nonexistent/mcr/control.")


def test_a_capture_socket_that_fails_for_another_reason_names_that(plant: Plant) -> None:
    """Without descriptors no capability helps, and none is asked for."""
    said = start_and_fail(
        plant.relay, "prlimit", "--nofile=8:8", BIN / "mcrd", "supervisor", "--no-state", "--num-workers", "1"
    )
    assert said == ["Error: AF_PACKET socket creation failed: Too many open files (os error 24)"]


@needs_root
@pytest.mark.parametrize(
    ("denied", "named"),
    [("memfd_create", "os.memfd_create"), ("epoll_create1", "select.epoll"), ("socketpair", "_socket.socketpair")],
)
def test_a_call_that_a_sandbox_denies_is_named(lab: Lab, denied: str, named: str) -> None:
    said = start_and_fail(
        lab.namespace("relay"), sys.executable, SECCOMP, denied, BIN / "mcrd", "supervisor", "--no-state"
    )
    assert said[0] == f"Error: The system refuses a call that is needed: {named}: Operation not permitted (os error 1)"
    assert [line.startswith("hint: ") for line in said[1:]] == [True, True]


def test_what_mcrd_can_do_without_a_sandbox_may_deny(lab: Lab, make_mcr: MakeMcr) -> None:
    unneeded = "sched_getaffinity,sched_setaffinity,sched_setattr,getpriority,setpriority,prlimit64,pidfd_open"
    mcr = make_mcr(lab.namespace("relay"), prefix=[sys.executable, SECCOMP, unneeded]).start()
    assert mcr.says("limits of open files and locked memory stay as they are: resource.getrlimit: Operation not")
    os.kill(mcr.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: mcr.workers()[0]["restarts"], "its end is noticed")
    mcr.wait_for_workers()
    mcr.stop()


def test_a_runtime_directory_that_mcrd_may_not_write_is_told_with_owner_and_mode(plant: Plant, stage: Stage) -> None:
    """At the default path, as the user mcr. After the commands of the hint, it starts."""
    run = stage.directory / "run"
    run.mkdir(mode=0o755)
    stage.over.append((run, "/run"))
    rights = ("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw")
    supervisor: list[str | Path] = [
        *stage.run_as(MCR, options=rights),
        BIN / "mcrd",
        *("supervisor", "--no-state"),
        "--num-workers",
        "1",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MCR_CONTROL_SOCKET"}

    error, *hints = refusal(plant.relay.run(supervisor, check=False, env=environment).stderr)
    assert error == "Error: Failed to bind to /run/mcr/control.sock: Permission denied (os error 13)"
    assert hints[0] == "hint: mcrd runs as mcr; the directory /run/mcr cannot be made: No such file or directory"
    (run / "mcr").mkdir(mode=0o755)
    error, *hints = refusal(plant.relay.run(supervisor, check=False, env=environment).stderr)
    assert error == "Error: Failed to bind to /run/mcr/control.sock: Permission denied (os error 13)"
    assert hints[0] == "hint: mcrd runs as mcr; the directory /run/mcr belongs to root:root, mode 0755"
    remedy = hints[1].removeprefix("hint: ")
    assert remedy == "sudo mkdir -p /run/mcr && sudo chown mcr:mcr /run/mcr && sudo chmod 750 /run/mcr"

    as_root = [*stage.run_as(0), "sh", "-c", remedy.replace("sudo ", "")]
    plant.relay.run(as_root)
    status = (run / "mcr").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (MCR, MCR, 0o750)
    with (stage.directory / "log").open("w") as log:
        process = plant.relay.popen(supervisor, stderr=log, env=environment)
    wait_until((run / "mcr" / "control.sock").exists, "it serves at the default path")
    ping = plant.relay.run([*stage.run_as(0), BIN / "mcrctl", "ping"], env=environment)
    assert ping.stdout.startswith("mcrd answered on /run/mcr/control.sock in ")
    listing = plant.relay.run([*stage.run_as(0), "ls", "-la", "/run/mcr/control.sock"]).stdout
    assert listing.startswith("srw-rw---- 1 mcr mcr 0 ")
    process.terminate()
    assert process.wait(5) == 0
    assert not any((run / "mcr").iterdir())


@needs_root
def test_the_tmpfiles_configuration_makes_the_runtime_directory(plant: Plant, stage: Stage) -> None:
    run = stage.directory / "run"
    run.mkdir(mode=0o755)
    stage.over.append((run, "/run"))
    plant.relay.run([*stage.run_as(0), "systemd-tmpfiles", "--create", UNITS / "mcrd.tmpfiles"])
    status = (run / "mcr").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (MCR, MCR, 0o750)


def test_mcrctl_says_whether_the_socket_is_missing_or_has_nobody_behind_it(plant: Plant, make_mcr: MakeMcr) -> None:
    """Nobody ever started it; it was killed; it runs."""
    mcr = make_mcr(plant.relay)
    for command in (["list"], ["stats"], ["ping"], ["remove", "--rule-id", "x"]):
        missing = mcr.ctl(*command, check=False)
        assert missing.returncode == 1
        said = [line for line in missing.stderr.splitlines() if "there is one at" not in line]  # this machine's own
        assert said == [
            "Error: No such file or directory (os error 2)",
            f"hint: the control socket {mcr.socket} (from --control-socket) does not exist",
            "hint: is mcrd running? pgrep -a mcrd",
            f"hint: start it: sudo mcrd supervisor --control-socket {mcr.socket}",
        ]
    mcr.start()
    assert mcr.process is not None
    mcr.process.kill()
    mcr.process.wait()
    refused = mcr.ctl("list", check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[:2] == [
        "Error: Connection refused (os error 111)",
        f"hint: the control socket {mcr.socket} (from --control-socket) has no mcrd behind it",
    ]
    mcr.start()
    assert mcr.ctl("list").returncode == 0


def test_the_default_path_is_named_as_such(plant: Plant) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MCR_CONTROL_SOCKET"}
    done = plant.relay.run(
        ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none /run && {shlex.quote(str(BIN / 'mcrctl'))} list"],
        check=False,
        env=environment,
    )
    assert done.returncode == 1
    assert "hint: the control socket /run/mcr/control.sock (the default) does not exist" in done.stderr


def test_pgrep_finds_the_daemon_and_not_its_workers(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay, executed=True).start(2)
    assert mcr.process is not None
    found = plant.relay.run(["pgrep", "-a", "mcrd"]).stdout.splitlines()
    (line,) = [line for line in found if str(mcr.socket) in line]
    assert line.startswith(f"{mcr.process.pid} ")
    assert "mcrd supervisor --control-socket" in line
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in mcr.worker_pids()}
    assert names == {"mcr-worker-0", "mcr-worker-1"}


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(plant: Plant, make_mcr: MakeMcr) -> None:
    """Also by hand, as the guide says: removed, then started."""
    mcr = make_mcr(plant.relay).start()
    assert mcr.process is not None
    said = start_and_fail(plant.relay, BIN / "mcrd", "supervisor", "--no-state", "--control-socket", mcr.socket)
    assert said[0] == f"Error: Failed to bind to {mcr.socket}: Address already in use (os error 98)"
    assert "hint: find the mcrd that is running: pgrep -a mcrd" in said
    assert mcr.call("ping") == {"pong": True}
    clean_ups: list[Callable[[], None]] = [lambda: None, mcr.socket.unlink]
    for clean_up in clean_ups:
        mcr.process.kill()
        mcr.process.wait()
        assert mcr.socket.exists()
        clean_up()
        mcr.start()
        assert mcr.call("ping") == {"pong": True}


def test_an_interface_that_is_not_there_is_told_with_those_that_are(plant: Plant, make_mcr: MakeMcr) -> None:
    mcr = make_mcr(plant.relay).start()
    words = words_for_group("239.1.1.1")
    for wrong, hints in {
        "eth0": ["interfaces here: lo, in0, out0, out1, out2", "if it comes later: mcrctl add --wait"],
        "in1": [
            "did you mean in0?",
            "interfaces here: lo, in0, out0, out1, out2",
            "if it comes later: mcrctl add --wait",
        ],
    }.items():
        asked = [wrong if word == "in0" else word for word in words]
        refused = mcr.ctl("add", *asked, check=False)
        assert refused.returncode == 1
        assert refused.stderr.splitlines() == [
            f"Error: Interface not found: {wrong}",
            *(f"hint: {hint}" for hint in hints),
        ]
    assert mcr.ctl("add", *words).returncode == 0


def test_a_second_rule_for_the_same_input_is_told_the_first_one_s_id(plant: Plant, make_mcr: MakeMcr) -> None:
    """Its outputs can be changed, or after the hint's command the other is added."""
    mcr = make_mcr(plant.relay).start()
    rule_id = mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    refused = mcr.ctl("add", *words_for_group("239.1.1.1"), check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        f"Error: Rule already exists: {rule_id} takes 239.1.1.1:5000 on in0",
        f"hint: remove it first: mcrctl remove --rule-id {rule_id}",
        f"hint: or change its outputs: mcrctl change --rule-id {rule_id} --add-outputs G:P:IF",
    ]
    mcr.ctl("change", "--rule-id", rule_id, "--add-outputs", "239.2.2.2:6000:out1")
    mcr.ctl("remove", "--rule-id", rule_id)
    assert mcr.ctl("add", *words_for_group("239.1.1.1")).returncode == 0


def settings_of(mcr: Mcr) -> dict[str, dict[str, Any]]:
    return {setting["name"]: setting for setting in json.loads(mcr.ctl("settings", "--json").stdout)}


def test_settings_say_what_is_in_force_and_where_it_comes_from(plant: Plant, make_mcr: MakeMcr) -> None:
    """Without CAP_NET_ADMIN the kernel's limit holds, and the guide's sysctl is what it takes."""
    prefix = ["setpriv", "--bounding-set=-net_admin", "--", "env", f"MCR_SOCKET_SNDBUF={1 << 30}", "MCR_TYPO=1"]
    mcr = make_mcr(plant.relay, prefix=prefix).start(1, "--log-level", "debug")
    settings = settings_of(mcr)
    limit = int(Path("/proc/sys/net/core/wmem_max").read_text())
    buffer = settings["MCR_SOCKET_SNDBUF"]
    assert (buffer["value"], buffer["source"], buffer["default"]) == (str(1 << 30), "environment", "4194304")
    assert buffer["effective"] == f"{limit}, by net.core.wmem_max (mcrd has no CAP_NET_ADMIN)"
    assert settings["--log-level"]["source"] == "command line"
    assert settings["MCR_NUM_RECV_BUFFERS"] == {
        "name": "MCR_NUM_RECV_BUFFERS",
        "value": "32",
        "default": "32",
        "source": "default",
        "meaning": "packets a worker takes from a ring at a time",
        "effective": None,
    }
    mcr.ctl("log-level", "set", "--global", "info")
    assert settings_of(mcr)["--log-level"]["effective"] == "changed since; see: mcrctl log-level get"
    assert mcr.says("warning [supervisor] MCR_TYPO means nothing to mcrd")
