"""What the shell is told at the Tab key, by the protocol that the completion scripts speak."""

from collections.abc import Callable
from typing import Any

import pytest

from mcr.cli import session
from mcr.cli.mcrctl import cli
from mcr.cli.supervisor import mcrd
from mcr.errors import SystemFault
from mcr.model.log import Facility, Level

LEVELS = [level.label for level in Level]
RULES: list[dict[str, Any]] = [
    {"rule_id": "dcfca9531161", "name": "cam", "input": {"interface": "eth0", "group": "239.1.1.1", "port": 5000}},
    {"rule_id": "dada", "name": "two words", "input": {"interface": "eth0", "group": "239.1.1.2", "port": 5000}},
    {"rule_id": "news", "name": None, "input": {"interface": "eth1", "group": "239.1.1.3", "port": 5000}},
]

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """Ask for completions of a command line whose last word is incomplete, as bash does; return its answer."""

    def ask(*words: str, asker: str = "bash") -> list[str]:
        program = {"mcrctl": cli, "mcrd": mcrd}[words[0]]
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        monkeypatch.setenv(f"_{words[0].upper()}_COMPLETE", f"{asker}_complete")
        with pytest.raises(SystemExit) as ended:
            program.main(prog_name=words[0], standalone_mode=False)
        assert ended.value.code == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.split("\n")[:-1]

    return ask


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A daemon with rules; the paths it was asked at."""
    asked: list[str] = []

    def call(self: session.Session, method: str) -> Any:
        assert method == "list"
        asked.append(self.path)
        return RULES

    monkeypatch.setattr(session.Session, "call", call)
    return asked


def plain(*values: str) -> list[str]:
    return [f"plain,{value}" for value in values]


def test_commands_and_options(complete: Complete) -> None:
    assert complete("mcrctl", "l") == plain("list", "list-workers", "log-level")
    assert complete("mcrctl", "stats", "--w") == plain("--watch")
    assert complete("mcrd", "s") == plain("supervisor")
    assert complete("mcrd", "supervisor", "--log-format", "j") == plain("json")


def test_rules_are_those_of_the_daemon(complete: Complete, daemon: list[str]) -> None:
    assert complete("mcrctl", "remove", "--rule-id", "d") == plain("dcfca9531161", "dada")
    assert complete("mcrctl", "remove", "--name", "c") == plain("cam")
    assert complete("mcrctl", "remove", "--name", "x", "--name", "c") == plain("cam")
    assert complete("mcrctl", "change", "--rule-id", "d") == plain("dcfca9531161", "dada")
    assert complete("mcrctl", "change", "--name", "c") == plain("cam")
    for command in ("list", "stats", "remove", "change"):
        assert complete("mcrctl", command, "c") == plain("cam")
    assert complete("mcrctl", "why", "") == plain("dcfca9531161", "cam", "dada", "'two words'", "news")


def test_a_name_is_quoted_for_a_shell_that_does_not_do_so(complete: Complete, daemon: list[str]) -> None:
    """Bash puts a proposal on the line as it is, but behind the quote that the word begins with."""
    assert complete("mcrctl", "remove", "--name", "t") == plain("'two words'")
    assert complete("mcrctl", "remove", "--name", "'two w") == plain("two words")
    assert complete("mcrctl", "remove", "--name", "t", asker="zsh")[:2] == ["plain", "two words"]
    RULES[1]["name"] = r"o'\clock"
    try:
        assert complete("mcrctl", "remove", "--name", "o") == [""]
    finally:
        RULES[1]["name"] = "two words"


def test_a_shell_that_can_is_told_what_an_id_stands_for(complete: Complete, daemon: list[str]) -> None:
    assert complete("mcrctl", "remove", "--rule-id", "dc", asker="zsh") == [
        *("plain", "dcfca9531161", "cam 239.1.1.1:5000 on eth0")
    ]


def test_the_daemon_is_the_one_that_the_command_line_names(complete: Complete, daemon: list[str]) -> None:
    complete("mcrctl", "--control-socket", "/run/other.sock", "remove", "--rule-id", "")
    complete("mcrctl", "remove", "--control-socket", "/run/other.sock", "--rule-id", "")
    assert daemon == ["/run/other.sock"] * 2


def test_without_a_daemon_there_are_no_rules_and_no_words(complete: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise SystemFault("", 111)

    monkeypatch.setattr(session.Session, "call", refused)
    assert complete("mcrctl", "remove", "--rule-id", "") == [""]


def test_levels_and_facilities(complete: Complete) -> None:
    for words in (
        ("mcrctl", "log-level", "set", "--global"),
        ("mcrctl", "log-level", "set", "--level"),
        ("mcrd", "supervisor", "--log-level"),
    ):
        assert complete(*words, "") == plain(*LEVELS)
    facilities = plain(*(facility.label for facility in Facility))
    assert complete("mcrctl", "log-level", "set", "--facility", "") == facilities


def test_interfaces_are_those_of_this_machine(complete: Complete, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth1")])
    assert complete("mcrctl", "add", "--input-interface", "e") == plain("eth0", "eth1")


@pytest.mark.parametrize(
    "words",
    [
        ("mcrctl", "add", "--batch"),
        ("mcrctl", "report", "--output"),
        ("mcrctl", "list", "--control-socket"),
        ("mcrd", "supervisor", "--control-socket"),
    ],
)
def test_paths_are_the_shells_to_complete(complete: Complete, words: tuple[str, ...]) -> None:
    assert complete(*words, "/ru") == ["file,/ru"]
