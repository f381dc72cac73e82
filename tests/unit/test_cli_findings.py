"""How mcrctl shows findings, and how bad it says they are."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from mcr.cli import findings as shown
from mcr.errors import RuleNotFound

OK = {"check": "input_up", "verdict": "ok", "what": "eth0 is up", "evidence": "ip link show dev eth0", "remedy": ""}
ADVICE = OK | {"verdict": "advice", "what": "it could be better", "remedy": "do this"}
FAULT = OK | {"verdict": "fault", "what": "eth0 is down", "remedy": "ip link set dev eth0 up"}


def ask(run: Any, *words: str) -> tuple[Any, str]:
    """Exit status and standard output."""
    status, out, _ = run(*words)
    return status, out


@pytest.mark.parametrize(
    ("findings", "status"),
    [([OK], 0), ([OK, ADVICE, OK], 1), ([ADVICE, FAULT, OK], 2), ([], 0)],
)
def test_exit_status_is_that_of_the_worst(run: Any, daemon: Any, findings: Any, status: int) -> None:
    daemon.results["why"] = findings
    assert ask(run, "why", "tv")[0] == status
    assert ask(run, "why", "tv", "--json") == (status, json.dumps(findings) + "\n")


def test_a_finding_is_a_line(run: Any, daemon: Any) -> None:
    daemon.results["why"] = [OK, ADVICE, FAULT]
    assert ask(run, "why", "tv")[1].splitlines() == [
        "ok      eth0 is up (ip link show dev eth0)",
        "advice  it could be better (ip link show dev eth0); do this",
        "fault   eth0 is down (ip link show dev eth0); ip link set dev eth0 up",
    ]
    assert daemon.calls == [("why", {"rule": "tv"}), ("version", None)]


def test_in_a_terminal_lines_end_between_words_and_commands_stay_whole() -> None:
    command = "sudo ip link add link eth1 name eth1.7 type vlan id 7"
    remedy = f"make a device of the VLAN, and send by that: {command}; or leave the tag out"
    shown_as = click.unstyle(shown.findings_view([FAULT | {"remedy": remedy}, OK], 60)).splitlines()
    assert shown_as == [
        "fault   eth0 is down (ip link show dev eth0); make a device",
        "        of the VLAN, and send by that:",
        f"        {command};",
        "        or leave the tag out",
        "ok      eth0 is up (ip link show dev eth0)",
    ]
    assert click.unstyle(shown.findings_view([FAULT | {"remedy": remedy}], None)).count("\n") == 0


def test_an_empty_rule_is_no_rule(run: Any, daemon: Any) -> None:
    status, _, said = run("why", "")
    assert (status, daemon.calls) == (3, [])
    assert said == ["Error: RULE is empty", "hint: ids and names are shown by: mcrctl list"]


def test_what_could_not_be_found_out_is_no_verdict(run: Any, daemon: Any) -> None:
    """A script tells a fault from a mistake in its own command line."""
    assert run("why")[0] == run("why", "tv", "--wat")[0] == run("doctor", "tv")[0] == 3
    daemon.failure = RuleNotFound("No rule has the id or name 'tv'")
    assert run("why", "tv")[::2] == (3, ["Error: No rule has the id or name 'tv'"])
    assert run("config", "diff")[0] == 3
    daemon.failure = RuleNotFound("No rule has the id or name 'tv'")
    assert run("list")[0] == 1


@pytest.mark.parametrize("named", [True, False])
def test_remedies_say_where_mcrd_is_if_it_is_elsewhere(
    run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, named: bool
) -> None:
    network = tmp_path / "plant"
    network.touch()
    monkeypatch.setattr(shown, "_NAMED_NETWORKS", str(tmp_path if named else tmp_path / "none"))
    daemon.results["version"] = {"network_namespace": network.stat().st_ino}
    daemon.results["why"] = [FAULT]
    way = "ip netns exec plant" if named else "nsenter --net=/proc/4242/ns/net"
    note = (
        f"note    mcrd runs in another network namespace than this shell: run these commands there: sudo {way} COMMAND"
    )
    assert ask(run, "why", "tv")[1].splitlines()[1:] == [note]
    assert json.loads(ask(run, "why", "tv", "--json")[1]) == [FAULT]
    daemon.results["why"] = [OK, FAULT | {"check": "saved_rules"}]
    assert "note" not in ask(run, "why", "tv")[1]
    daemon.results |= {"why": [FAULT], "version": {"network_namespace": Path("/proc/self/ns/net").stat().st_ino}}
    assert "note" not in ask(run, "why", "tv")[1]
