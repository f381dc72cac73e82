"""How mcrctl shows findings, and how bad it says they are."""

import json
from typing import Any

import pytest

OK = {"check": "input_up", "verdict": "ok", "what": "eth0 is up", "evidence": "ip link show dev eth0", "remedy": ""}
ADVICE = OK | {"verdict": "advice", "what": "it could be better", "remedy": "do this"}
FAULT = OK | {"verdict": "fault", "what": "eth0 is down", "remedy": "ip link set dev eth0 up"}


def ask(run: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str]:
    """Exit status and standard output."""
    with pytest.raises(SystemExit) as ended:
        run(*words)
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("findings", "status"),
    [([OK], 0), ([OK, ADVICE, OK], 1), ([ADVICE, FAULT, OK], 2), ([], 0)],
)
def test_exit_status_is_that_of_the_worst(run: Any, daemon: Any, capsys: Any, findings: Any, status: int) -> None:
    daemon.results["why"] = findings
    assert ask(run, capsys, "why", "tv")[0] == status
    assert ask(run, capsys, "why", "tv", "--json") == (status, json.dumps(findings) + "\n")


def test_a_finding_is_a_line(run: Any, daemon: Any, capsys: Any) -> None:
    daemon.results["why"] = [OK, ADVICE, FAULT]
    assert ask(run, capsys, "why", "tv")[1].splitlines() == [
        "ok      eth0 is up (ip link show dev eth0)",
        "advice  it could be better (ip link show dev eth0); do this",
        "fault   eth0 is down (ip link show dev eth0); ip link set dev eth0 up",
    ]
    assert daemon.calls == [("why", {"rule": "tv"})]


def test_an_empty_rule_is_no_rule(run: Any, daemon: Any) -> None:
    status, _, said = run("why", "")
    assert (status, daemon.calls) == (2, [])
    assert said == ["Error: RULE is empty", "hint: ids and names are shown by: mcrctl list"]
