"""What mcrd may, what its workers may not, and who may ask for what: with other users than root.

The users are those of files that are put over /etc/passwd and /etc/group for the processes of a test alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcr_process import BIN, Mcr, Receiver, Sender, descriptors_of, words_for_group
from topology import Plant, needs_root
from users import ADMIN, ALICE, MCR, Stage, socket_directory

pytestmark = needs_root


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def expect_forwarding(plant: Plant, mcr: Mcr) -> None:
    """A rule, packets, every one out again."""
    mcr.add("in0:239.1.1.1:5000", "239.2.2.2:6000:out0")
    receiver = Receiver(plant.receiver, "239.2.2.2:6000@rx0=239.1.1.1:5000", count=1000)
    Sender(plant.source, "src0", "239.1.1.1:5000", count=1000, rate=10_000).finish()
    receiver.expect_everything()


def expect_workers_without_rights(mcr: Mcr, *uids: int) -> None:
    """No capability in any set that counts, none to be gained, no system call that opens something."""
    for pid in mcr.worker_pids():
        status = status_of(pid)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[name], 16) == 0, f"{name}: {status[name]}"
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert Path(f"/proc/{pid}/fd").stat().st_uid == 0, "its user may trace it"
        assert status["Uid"].split() == [str(uid) for uid in uids]
        held = {re.sub(r"[0-9]+", "N", each) for each in descriptors_of(pid)}
        named = {"/dev/null", "/memfd:mcr-worker-N (deleted)", "anon_inode:[eventfd]", "socket:[N]"}
        assert held - {"anon_inode:[io_uring]"} == named, "something that is not named for it"


def test_as_the_user_mcr_with_ambient_capabilities_only(plant: Plant, stage: Stage) -> None:
    """As systemd starts it. Packets flow; workers are the same user without any right."""
    rights = ("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw")
    mcr = Mcr(plant.relay, socket_directory(stage, MCR), prefix=stage.run_as(MCR, options=rights)).start(2)
    assert mcr.process is not None
    assert int(status_of(mcr.process.pid)["CapEff"], 16) == 1 << 13, "CAP_NET_RAW"
    expect_forwarding(plant, mcr)
    expect_workers_without_rights(mcr, MCR, MCR, MCR, MCR)
    mcr.check_counters(arrived=1000)
    mcr.stop()


def test_through_setcap_as_an_ordinary_user(plant: Plant, stage: Stage) -> None:
    """The guide's setcap and getcap, on a copy of bin/mcrd put in its place. Workers become the user mcr.

    A worker that hangs can still be ended, which takes that it could become alice again, but for its system calls.
    """
    capable = stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", capable)
    subprocess.run(["setcap", "cap_net_raw,cap_setuid,cap_setgid=eip", capable], check=True)
    shown = subprocess.run(["getcap", capable], check=True, capture_output=True, text=True).stdout
    assert shown == f"{capable} cap_setgid,cap_setuid,cap_net_raw=eip\n"
    stage.over.append((capable, str(BIN / "mcrd")))
    mcr = Mcr(plant.relay, socket_directory(stage, ALICE), prefix=stage.run_as(ALICE)).start(2)
    assert mcr.process is not None
    assert status_of(mcr.process.pid)["Uid"].split() == [str(ALICE)] * 4
    expect_forwarding(plant, mcr)
    expect_workers_without_rights(mcr, MCR, MCR, ALICE, MCR)
    mcr.check_counters(arrived=1000)
    os.kill(mcr.worker_pids()[0], signal.SIGSTOP)
    mcr.stop()


OPENSSL_CONF = """openssl_conf = start
[start]
providers = all
[all]
theirs = theirs
[theirs]
module = {library}
activate = 1
"""
LOADED = "it was loaded"


def run_quietly(words: list[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def library(directory: Path) -> Path:
    """One that says that it was loaded."""
    source, made = directory / "theirs.c", directory / "theirs.so"
    source.write_text(f'#include <stdio.h>\n__attribute__((constructor)) static void f(void) {{ puts("{LOADED}"); }}')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source], check=True)
    return made


def test_a_capable_mcrd_does_not_run_a_python_that_somebody_else_put_beside_it(stage: Stage) -> None:
    """A link to it in another directory would lend its capabilities to whatever is called python there."""
    capable = stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", capable)
    subprocess.run(["setcap", "cap_net_raw=eip", capable], check=True)
    theirs = stage.directory / "theirs"
    theirs.mkdir()
    os.link(capable, theirs / "mcrd")
    (theirs / "python").symlink_to("/bin/id")
    os.chown(theirs, ALICE, ALICE)
    refused = subprocess.run([*stage.run_as(ALICE), theirs / "mcrd"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"Error: {theirs}/python: Operation not permitted (os error 1)\nhint: mcrd has")


def test_capabilities_are_not_lent_to_what_the_environment_names(stage: Stage) -> None:
    """LD_PRELOAD and PYTHON* of whoever starts a capable mcrd are not heeded in the Python that it becomes."""
    capable = stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", capable)
    subprocess.run(["setcap", "cap_net_raw=eip", capable], check=True)
    stage.over.append((capable, str(BIN / "mcrd")))
    (stage.directory / "mcr").mkdir()
    (stage.directory / "mcr" / "__init__.py").write_text("raise SystemExit('taken over')")
    environment = {
        "LD_PRELOAD": "/nonexistent.so",
        "PYTHONPATH": str(stage.directory),
        "PYTHONINSPECT": "1",
        "OPENSSL_CONF": str(stage.directory / "openssl.cnf"),
    }
    (stage.directory / "openssl.cnf").write_text(OPENSSL_CONF.format(library=library(stage.directory)))
    command = [*stage.run_as(ALICE), "env", *(f"{name}={value}" for name, value in environment.items())]
    plain = run_quietly([*command, sys.executable, "-I", "-c", "import ssl"])
    assert LOADED in plain.stdout, "the library is loaded where the variable is heeded"
    done = run_quietly([*command, BIN / "mcrd", "--version"])
    assert done.stdout.startswith("mcrd, version ")
    # What `env` itself is told of the library that isn't there; the Python after mcrd says nothing of it.
    assert done.stderr.count("/nonexistent.so") <= 1, done.stderr


def test_completion_through_a_capable_mcrd_has_no_capabilities(stage: Stage) -> None:
    """The shell that click asks for its version is whatever PATH says."""
    capable = stage.directory / "mcrd"
    shutil.copy(BIN / "mcrd", capable)
    subprocess.run(["setcap", "cap_net_raw=eip", capable], check=True)
    stage.over.append((capable, str(BIN / "mcrd")))
    (stage.directory / "bash").write_text("#!/bin/sh\ngrep CapEff /proc/self/status >&2\necho 5.2.0")
    (stage.directory / "bash").chmod(0o755)
    words = ["env", f"PATH={stage.directory}:/usr/bin:/bin", "_MCRD_COMPLETE=bash_source", BIN / "mcrd"]
    done = run_quietly([*stage.run_as(ALICE), *words])
    assert "_mcrd_completion" in done.stdout
    assert "CapEff:\t0000000000000000" in done.stderr


def test_started_with_sudo_workers_are_the_user_mcr(plant: Plant, stage: Stage) -> None:
    """And the socket is that group's, in a directory that they may pass: members look, admins change."""
    mcr = Mcr(plant.relay, stage.directory, prefix=stage.run_as(0))
    mcr.socket = stage.directory / "made" / "mcr.sock"
    mcr.start()
    expect_workers_without_rights(mcr, MCR, MCR, MCR, MCR)
    for path, mode in ((mcr.socket, 0o660), (mcr.socket.parent, 0o750)):
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (MCR, mode), path
    mcr.stop()


def as_user(plant: Plant, stage: Stage, mcr: Mcr, uid: int, *groups: int) -> Any:
    """Run mcrctl as somebody."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            *stage.run_as(uid, *groups),
            BIN / "mcrctl",
            "--control-socket",
            mcr.socket,
            *words,
        ]
        return plant.relay.run(command, check=False)

    return run


def test_members_of_mcr_look_and_admins_change(plant: Plant, stage: Stage) -> None:
    mcr = Mcr(plant.relay, socket_directory(stage, MCR), prefix=stage.run_as(0)).start()
    stranger, looker, admin = (as_user(plant, stage, mcr, ALICE, *groups) for groups in ((), (MCR,), (MCR, ADMIN)))

    refused = stranger("list")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: Permission denied (os error 13)\nhint: you are alice; ")
    assert "sudo usermod -aG mcr alice" in refused.stderr

    for words in (("list",), ("stats",), ("list-workers",), ("settings",), ("log-level", "get"), ("ping",)):
        assert looker(*words).returncode == 0, words
    changes: list[tuple[str, ...]] = [
        ("add", *words_for_group("239.1.1.1")),
        ("remove", "--rule-id", "x"),
        ("log-level", "set", "--global", "debug"),
    ]
    for change in changes:
        refused = looker(*change)
        assert refused.returncode == 1, change
        assert refused.stderr.startswith("Error: alice may read from this relay but not change it: "), refused.stderr
        assert "sudo usermod -aG mcr-admin alice" in refused.stderr
    assert mcr.call("list") == []

    assert admin("add", *words_for_group("239.1.1.1"), "--rule-id", "tv").returncode == 0
    assert json.loads(looker("list", "--json").stdout)[0]["rule_id"] == "tv"
    assert admin("remove", "--rule-id", "tv").returncode == 0
    mcr.stop()
