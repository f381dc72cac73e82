"""Plain command lines, which are read without click: they mean the same as if it read them."""

import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_daemon import STATS, Daemon, Run
from mcr.cli import failure, mcrctl, requests, session
from mcr.errors import RuleNotFound

COMMANDS = [*requests.ABOUT_A_RULE, *requests.ABOUT_ALL]
WORDS = [
    "--json",
    "--control-socket",
    "/run/other",
    "cam",
    "",
    "--",
    "-",
    "-h",
    "--watch",
    "--control-socket=/a",
    "add",
]


def done(capsys: pytest.CaptureFixture[str], arguments: list[str], *, by_click: bool) -> tuple[Any, ...]:
    """What a command line does: its status, what it prints, what is asked, and where."""
    daemon = Daemon()
    daemon.results["settings"] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Client", daemon.connect)
        patch.setattr(sys, "argv", ["mcrctl", *arguments])
        status = failure.run(mcrctl.cli, "mcrctl") if by_click else requests.chosen(arguments)()
    printed = capsys.readouterr()
    return status, re.sub(r"in [\d.]+ ms", "", printed.out), printed.err, daemon.calls, daemon.path


def test_it_is_one_command_whoever_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    plain = set()

    @given(st.lists(st.sampled_from(COMMANDS + WORDS), max_size=5))
    def same(arguments: list[str]) -> None:
        if requests.plain(arguments):
            plain.add(next(each for each in arguments if each in COMMANDS))
            assert done(capsys, arguments, by_click=False) == done(capsys, arguments, by_click=True)

    same()
    assert plain


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plain_command_line_is_read_without_click(capsys: pytest.CaptureFixture[str], command: str) -> None:
    rule = [["cam"]] if command in requests.ABOUT_A_RULE else []
    for words in ([], *rule):
        for arguments in (
            [command, *words],
            ["--json", command, *words],
            ["--control-socket", "/a", command, "--json"],
        ):
            assert requests.plain(arguments)
            if command == "stats" and words:  # whose view is of a rule
                continue
            assert done(capsys, arguments, by_click=False) == done(capsys, arguments, by_click=True)


NOT_PLAIN = ["", "add", "ping cam", "list a b", "stats --watch", "--help", "list -- -a", "ping -"]
NOT_PLAIN += ["--control-socket --json ping", "ping --control-socket", "--control-socket=/a ping"]
NOT_PLAIN += ["--control-socket /a ping --control-socket /b"]


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_click(line: str) -> None:
    assert requests.plain(line.split()) is None


def host_stats(host: int | None, rules: int) -> dict[str, Any]:
    """Statistics of so many rules, of which one, by its number, has a host."""
    members = dict.fromkeys(["matched", "submitted", "sent", "errors", "bytes", "pps", "bps", "last_error"], 0)
    output = members | {"port": 1, "interface": "eth1"}
    addresses = ["192.0.2.7" if number == host else "239.1.1.1" for number in range(rules)]
    shown = [
        members | {"rule_id": f"r{number}", "name": None, "outputs": [output | {"group": address}]}
        for number, address in enumerate(addresses)
    ]
    return STATS | {"rules": shown}


def test_statistics_are_shown_though_the_list_cannot_be_had(run: Run, daemon: Daemon) -> None:
    """The rule, or mcrd, is gone since."""
    daemon.results |= {"stats": host_stats(0, 1), "list": RuleNotFound("No rule has the id or name 'r0'")}
    status, out, err = run("stats", "r0")
    assert (status, err, "192.0.2.7:1:eth1" in out) == (0, [], True)
    assert [method for method, _ in daemon.calls] == ["stats", "list"]


@pytest.mark.parametrize(
    ("host", "rules", "asked"),
    [(None, 200, []), (7, 200, [("list", {"rule": "r7"})]), (7, 50, [("list", None)])],
)
def test_of_many_rules_those_with_hosts_alone_are_listed(
    run: Run, daemon: Daemon, host: int | None, rules: int, asked: list[Any]
) -> None:
    daemon.results["stats"] = host_stats(host, rules)
    assert run("stats")[0] == 0
    assert daemon.calls[1:] == asked


def test_who_completes_a_command_line_carries_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MCRCTL_COMPLETE", "bash_complete")
    assert requests.plain(["ping"]) is None
