"""Which lines the log leaves out, and that it says so."""

import logging

import attrs
import pytest

from mcr._native import lib
from mcr.logs.limit import BURST, RATE, UNLIMITED, LogLimit


@attrs.define
class Log:
    """A logger with a limit, and a clock."""

    now: float = 0.0
    limit: LogLimit = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.limit = LogLimit(lambda: self.now)

    def say(self, message: str, *args: object, **extra: object) -> bool:
        return self.limit.filter(
            logging.makeLogRecord(
                {"name": "mcr.control", "levelno": logging.WARNING, "msg": message, "args": args} | extra
            )
        )

    def left_out(self) -> list[str]:
        return [record.getMessage() for record in self.limit.left_out()]


def test_what_is_said_seldom_is_said() -> None:
    log = Log()
    for _ in range(1_000):
        assert log.say("client %d", 1)
        log.now += 1 / RATE
    assert log.left_out() == []


def test_a_flood_is_some_lines_and_a_count() -> None:
    log = Log()
    said = 0
    for number in range(20_000):
        said += log.say("client %d", number)
        log.now += 0.0005
    assert said == pytest.approx(BURST + 10 * RATE, abs=1)
    assert log.left_out() == [f"{20_000 - said:,} more lines such as: client 19999"]
    assert log.left_out() == []
    while log.say("client %d", 1):
        pass
    assert not log.say("client %d", 2)
    assert log.left_out() == ["2 more lines such as: client 2"]


def test_what_sixteen_workers_tell_each_minute_of_a_trouble_is_said() -> None:
    log = Log()
    for _ in range(10):
        assert all(log.say("send failed", kind="code 20") for _ in range(16 * (lib.MCR_LOG_NAMED + 1)))
        log.now += 60


def test_one_kind_costs_the_others_nothing() -> None:
    log = Log()
    for _ in range(1_000):
        log.say("worker %d: %s", 0, "no rule", kind="no match")
    assert log.say("worker %d: %s", 0, "failed", kind="send failed")
    assert log.say("mcrd is ready")


def test_names_make_no_kind() -> None:
    log = Log()
    assert sum(log.say("client %s", name) for name in range(1_000)) == BURST


def test_after_the_flood_it_is_as_before() -> None:
    log = Log()
    for _ in range(1_000):
        log.say("x")
    log.now += BURST / RATE
    assert all(log.say("x") for _ in range(BURST))


def test_what_was_asked_for_is_not_limited() -> None:
    log = Log()
    assert all(log.say("%s", "statistics", kind=UNLIMITED) for _ in range(2 * BURST))
