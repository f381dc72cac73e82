"""What the log says of interfaces that come and go."""

import pytest

from mcr.model.log import Level
from mcr.model.rule import RuleState
from mcr.rules.conditions import WELL, Condition
from mcr.rules.interface_log import InterfaceLog, Users

DOWN = Condition(RuleState.WAITING, "eth0 is down")
GONE = Condition(RuleState.WAITING, "there is no interface eth0")
PASSING = Condition(RuleState.WAITING, "eth0 is about to be used", passing=True)
PORT = Condition(RuleState.DEGRADED, "eth0 is a port of bridge br0")
AGAIN = "eth0 is up: 12 rules go on"


@pytest.fixture
def log() -> InterfaceLog:
    return InterfaceLog()


def said(log: InterfaceLog, *conditions: Condition, users: Users = Users(12), time: float = 0.0) -> list[str]:  # noqa: B008
    lines = []
    for condition in conditions:
        log.note({"eth0": condition})
        lines += [text for _, text in log.lines({"eth0": users}, time)]
    return lines


def test_each_change_is_said_once(log: InterfaceLog) -> None:
    assert said(log, WELL, DOWN, DOWN, WELL, WELL) == [
        "eth0 is down: 12 rules wait",
        "eth0 is up: 12 rules go on",
    ]


def test_what_is_lost_is_a_warning_and_what_is_back_is_not(log: InterfaceLog) -> None:
    log.note({"eth0": DOWN})
    assert [level for level, _ in log.lines({}, 0)] == [Level.WARNING]
    log.note({"eth0": WELL})
    assert [level for level, _ in log.lines({}, 0)] == [Level.NOTICE]


def test_users_are_counted(log: InterfaceLog) -> None:
    assert said(log, DOWN, users=Users(1)) == ["eth0 is down: 1 rule waits"]
    assert said(log, GONE, users=Users(2, 1_000)) == ["there is no interface eth0: 2 rules and 1,000 outputs wait"]
    assert said(log, WELL, users=Users(0, 1)) == ["eth0 is up: 1 output goes on"]


def test_what_will_be_over_at_once_is_said_when_it_is(log: InterfaceLog) -> None:
    """An interface that was made again, faster than anybody looked."""
    assert said(log, PASSING) == []
    assert said(log, WELL, WELL) == ["eth0 is up: 12 rules go on"]
    assert said(log, GONE, PASSING, WELL) == [
        "there is no interface eth0: 12 rules wait",
        "eth0 is up: 12 rules go on",
    ]


def test_bridges_are_said(log: InterfaceLog) -> None:
    assert said(log, PORT, WELL) == [
        "eth0 is a port of bridge br0; 12 rules are concerned",
        "eth0 can be used as before: 12 rules",
    ]


def test_interface_that_comes_and_goes_all_the_time_is_told_seldom(log: InterfaceLog) -> None:
    """Ten times a second for a minute: some lines at first, then one in ten seconds that says how often."""
    lines = []
    for tenth in range(600):
        lines += said(log, DOWN if tenth % 2 else WELL, time=tenth / 10)
    assert 8 <= len(lines) <= 12
    assert "changes since the last such line" in lines[-1]
    assert len(said(log, DOWN, WELL, time=1_000.0)) == 2


def test_last_state_is_said_soon_after_the_last_change(log: InterfaceLog) -> None:
    for tenth in range(51):
        said(log, WELL if tenth % 2 else DOWN, time=tenth / 10)
    assert said(log, DOWN, time=5.5) == []
    (line,) = said(log, DOWN, time=6.0)
    assert line.startswith("eth0 is down: 12 rules wait (")


def test_what_was_not_said_is_held_back_until_it_is(log: InterfaceLog) -> None:
    said(log, WELL)
    assert not log.holds_back
    said(log, *[DOWN, WELL] * 5)
    assert log.holds_back
    said(log, time=1_000.0)
    assert log.holds_back
    log.lines({}, 1_000.0)
    assert not log.holds_back


def test_interface_that_comes_and_goes_slowly_is_told_seldom_too(log: InterfaceLog) -> None:
    """Each state lasts three seconds, for ten minutes."""
    lines = [line for second in range(600) for line in said(log, DOWN if second // 3 % 2 else WELL, time=second)]
    assert 60 <= len(lines) <= 70


def test_others_are_told_meanwhile(log: InterfaceLog) -> None:
    for _ in range(10):
        said(log, DOWN, WELL)
    log.note({"eth0": WELL, "eth1": Condition(RuleState.WAITING, "eth1 is down")})
    assert [text for _, text in log.lines({"eth1": Users(1)}, 0.0)] == ["eth1 is down: 1 rule waits"]


def test_interface_that_no_rule_names_any_more_is_forgotten(log: InterfaceLog) -> None:
    said(log, DOWN)
    log.note({})
    assert log.lines({}, 0.0) == []
    assert said(log, WELL) == []
