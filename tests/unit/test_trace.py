"""How `mcrctl trace` shows what no rule takes."""

import shlex
from typing import Any

import pytest

from fake_daemon import Daemon, Run

FLOW = {"group": "239.1.1.1", "port": 5001, "frames": 1_000, "pps": 500.0, "bps": 5_264_000.0}
FOUND = {"interface": "eth0", "seconds": 2.0, "flows": [FLOW], "whole": True}


def test_flows_are_a_table_and_commands(run: Run, daemon: Daemon) -> None:
    """A command with outputs in the place of its own is taken."""
    daemon.results["trace"] = FOUND
    status, out, _ = run("trace", "--unmatched", "eth0")
    assert status == 0
    assert out.splitlines() == [
        "NO RULE TAKES        PPS  MBIT/S  FRAMES",
        "239.1.1.1:5001:eth0  500    5.26   1,000",
        "",
        "seen in 2.0 s; to add one, with outputs of your own:",
        "mcrctl add --input-interface eth0 --input-group 239.1.1.1 --input-port 5001 --outputs G:P:IF",
    ]
    _, *command = shlex.split(out.splitlines()[-1].replace("G:P:IF", "239.2.2.2:6000:eth1"))
    assert run(*command)[0] == 0
    assert [method for method, _ in daemon.calls] == ["trace", "add"]
    assert daemon.calls[0][1] == {"interface": "eth0", "seconds": 2}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"flows": []}, "Nothing arrives on eth0 that no rule takes, in 2.0 s\n"),
        ({"whole": False}, "seen in 2.0 s; there was more than one look can count; to add one"),
        ({"flows": [FLOW | {"port": port} for port in range(1, 13)]}, "and so on for 2 more flows"),
    ],
)
def test_what_was_not_seen_is_said(run: Run, daemon: Daemon, found: dict[str, Any], words: str) -> None:
    daemon.results["trace"] = FOUND | found
    assert words in run("trace", "--unmatched", "eth0", "--seconds", "10")[1]


def test_it_looks_for_so_long_and_no_longer(run: Run, daemon: Daemon) -> None:
    assert run("trace")[0] == run("trace", "--unmatched", "eth0", "--seconds", "11")[0] == 2
    assert daemon.calls == []
