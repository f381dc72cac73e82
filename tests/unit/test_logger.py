"""The log: what a line looks like, which lines appear, and what happens when nobody takes them."""

import json
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attrs
import pytest

from mcr.cli import failure, supervisor
from mcr.errors import McrError
from mcr.logs import control
from mcr.logs import writer as log_writer
from mcr.logs.control import LogControl, setup_logging
from mcr.logs.limit import BURST, LogLimit
from mcr.logs.logger import get_logger
from mcr.logs.writer import LogFormat
from mcr.model.flow import Input
from mcr.model.log import Facility, Level, LogLevels
from mcr.model.rule import Output, Rule
from mcr.rules.change_log import log_draft
from mcr.rules.drafts import Draft

log = get_logger(Facility.SUPERVISOR)


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for facility in Facility:
        logger = logging.getLogger(f"mcr.{facility.label}")
        logger.setLevel(logging.NOTSET)
        logger.filters = []


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was written to standard error until now."""

    def flushed() -> list[str]:
        for handler in logging.root.handlers:
            handler.close()
        return capfd.readouterr().err.splitlines()

    return flushed


def set_up(log_format: LogFormat = "text", level: Level = Level.TRACE) -> None:
    setup_logging(log_format, LogLevels().with_global(level))


# Lines


def test_a_text_line_is_time_level_facility_message(lines: Callable[[], list[str]]) -> None:
    set_up()
    log.notice("worker %d started", 3, pid=42)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z notice \[supervisor\] worker 3 started", line)


def test_in_the_journal_a_line_has_its_priority_and_no_time(
    lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    set_up()
    for level in Level:
        log.log(level, "x")
    logging.getLogger("trio").warning("x")
    labels = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"]
    expected = [f"<{number}>{label} [supervisor] x" for number, label in enumerate(labels)]
    assert lines() == [*expected, "<7>trace [supervisor] x", "<4>warning [trio] x"]


def test_elsewhere_than_in_the_journal_there_is_no_priority(
    lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # of who started us, whose standard error ours no longer is
    set_up("json")
    log.notice("x")
    assert lines()[0].startswith("{")


def test_a_json_line_is_an_object_with_the_extra_fields(lines: Callable[[], list[str]]) -> None:
    set_up("json")
    log.notice("worker %d started", 3, pid=42)
    (line,) = lines()
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
    assert event == {"level": "notice", "facility": "supervisor", "message": "worker 3 started", "pid": 42}


def test_a_line_about_a_rule_has_its_id_and_its_name(lines: Callable[[], list[str]]) -> None:
    set_up("json")
    source = Input("eth0", IPv4Address("239.1.1.1"), 5000)
    rule = Rule("dada", source, (Output(IPv4Address("239.2.2.2"), 6000, "eth1"),), "studio 1")
    log_draft(Draft((), added=(rule,)), " by alice")
    after = attrs.evolve(rule, outputs=(Output(IPv4Address("239.2.2.2"), 6000, "eth1", ttl=8),))
    log_draft(Draft((), former=(rule,), changed=(after,)), "")
    log_draft(Draft((), removed=(rule, rule)), "")
    added, changed, removed = map(json.loads, lines())
    assert added["message"] == "rule dada (studio 1) added: 239.1.1.1:5000 on eth0 to 239.2.2.2:6000:eth1 by alice"
    assert (added["rule"], added["name"]) == ("dada", "studio 1")
    assert changed["message"] == "rule dada (studio 1) changed: with other options: 239.2.2.2:6000:eth1:ttl=8"
    assert removed["message"] == "2 rules removed together: dada (studio 1), dada (studio 1)"
    assert removed["rules"] == 2


def test_a_field_does_not_replace_what_every_line_has(lines: Callable[[], list[str]]) -> None:
    set_up("json")
    log.notice("message", message="no", level="no", facility="no", time="no")
    (line,) = lines()
    assert "no" not in json.loads(line).values()


def test_the_time_is_utc(lines: Callable[[], list[str]]) -> None:
    set_up()
    record = {"name": "mcr.rules", "levelno": logging.INFO, "created": 1_795_345_200.1234}
    logging.root.handle(logging.makeLogRecord(record))
    assert lines()[0].startswith("2026-11-22T11:00:00.123Z ")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_event_is_one_line_whatever_it_says(lines: Callable[[], list[str]], log_format: LogFormat) -> None:
    set_up(log_format)
    log.notice("%s", "a\nb\r\x1b[2J\u2028\ud800é")
    (line,) = lines()
    assert line.isprintable()
    if log_format == "text":
        assert line.endswith(r"a\nb\r\x1b[2J\u2028\ud800é")
    else:
        assert json.loads(line)["message"] == "a\nb\r\x1b[2J\u2028\ud800é"


@pytest.mark.parametrize("level", Level)
def test_every_level_is_shown_by_its_label(lines: Callable[[], list[str]], level: Level) -> None:
    set_up()
    getattr(log, level.label)("x")
    assert f" {level.label} [supervisor] x" in lines()[0]


def test_a_percent_sign_without_arguments_is_text(lines: Callable[[], list[str]]) -> None:
    set_up()
    log.notice("100% sure")
    assert lines()[0].endswith("100% sure")


def test_libraries_log_in_the_same_form_from_warning_up(lines: Callable[[], list[str]]) -> None:
    set_up()
    logging.getLogger("trio").info("quiet")
    logging.getLogger("trio").warning("loud")
    (line,) = lines()
    assert line.endswith(" warning [trio] loud")


def test_a_traceback_stays_in_its_line(lines: Callable[[], list[str]]) -> None:
    set_up()
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logging.getLogger("trio").exception("failed")
    (line,) = lines()
    assert "failed\\nTraceback" in line
    assert line.endswith("ZeroDivisionError: division by zero")


# Thresholds


@pytest.mark.parametrize("threshold", Level)
def test_a_threshold_lets_its_own_level_and_graver_ones_pass(lines: Callable[[], list[str]], threshold: Level) -> None:
    set_up(level=threshold)
    for level in Level:
        log.log(level, "%s", level.label)
    assert [line.split()[-1] for line in lines()] == [level.label for level in Level if level <= threshold]


class Workers:
    """Stand-ins that remember the levels they were given."""

    def __init__(self) -> None:
        self.levels: list[LogLevels] = []

    async def set_log_levels(self, levels: LogLevels) -> None:
        self.levels.append(levels)


async def test_a_level_applies_here_and_in_the_workers(lines: Callable[[], list[str]]) -> None:
    set_up(level=Level.INFO)
    workers = Workers()
    control = LogControl(LogLevels(), workers)
    levels = await control.set_facility(Facility.SUPERVISOR, Level.DEBUG)
    log.debug("shown")
    get_logger(Facility.CONTROL).debug("hidden")
    assert levels == control.levels == workers.levels[0] == LogLevels().with_facility(Facility.SUPERVISOR, Level.DEBUG)
    levels = await control.set_global(Level.ERROR)
    log.warning("hidden")
    assert levels == control.levels == workers.levels[1] == LogLevels().with_global(Level.ERROR)
    assert [line.split()[-1] for line in lines()] == ["shown"]


# What is remembered


def test_the_newest_warnings_are_remembered_oldest_first(lines: Callable[[], list[str]]) -> None:
    set_up()
    control = LogControl(LogLevels(), Workers())
    for number in range(250):
        log.log_kind(str(number), Level.WARNING, "warning %d", number)
        log.log_kind(str(number), Level.NOTICE, "notice %d", number)
    recent = control.recent()
    assert [line.message for line in recent] == [f"warning {number}" for number in range(50, 250)]
    assert (recent[0].level, recent[0].facility) == ("warning", "supervisor")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", recent[0].time)


def test_a_level_that_hides_a_warning_hides_it_from_the_memory_too(lines: Callable[[], list[str]]) -> None:
    set_up(level=Level.ERROR)
    log.warning("hidden")
    log.error("shown")
    assert [line.message for line in LogControl(LogLevels(), Workers()).recent()] == ["shown"]


def test_a_line_that_is_too_long_is_cut(lines: Callable[[], list[str]]) -> None:
    """What a client sends may be in it, and the queue counts lines."""
    set_up()
    log.notice("x" * 100_000)
    (line,) = lines()
    assert len(line) < 17_000
    assert re.search(r"x\.\.\. \(100,\d+ characters\)$", line)


# What repeats


@pytest.fixture
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a busy machine, which says less in a second, is not allowed more lines."""
    monkeypatch.setattr(control, "LogLimit", lambda: LogLimit(lambda: 0.0))


@pytest.mark.usefixtures("_time_stands_still")
def test_what_repeats_does_not_flood_the_log_and_the_rest_is_told(lines: Callable[[], list[str]]) -> None:
    set_up()
    for number in range(1_000):
        log.warning("client %d refused", number)
    log.notice("still heard")
    *said, heard, told = lines()
    assert len(said) == BURST
    assert heard.endswith("still heard")
    assert told.endswith(f" warning [supervisor] {1_000 - BURST} more lines such as: client 999 refused")


@pytest.mark.usefixtures("_time_stands_still")
def test_what_was_left_out_is_told_while_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log_writer, "_LEFT_OUT_SECONDS", 0.01)
    set_up()
    for number in range(BURST + 1):
        log.warning("client %d refused", number)
    said = ""
    while "1 more line such as" not in said:
        said += capfd.readouterr().err
        time.sleep(0.001)


def test_an_error_that_ends_mcrd_stands_below_what_led_to_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fails(*_arguments: object, **_options: object) -> None:
        for number in range(50):
            log.log_kind(str(number), Level.WARNING, f"{number} led to it")
        raise McrError("ended")

    def write_slowly(line: str) -> bool:
        threading.Event().wait(0.005)
        return write(line)

    write = log_writer._write_line
    monkeypatch.setattr(log_writer, "_write_line", write_slowly)
    monkeypatch.setattr(supervisor, "run_daemon", fails)
    monkeypatch.setattr(supervisor, "ignore_write_errors", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mcrd", "supervisor", "--control-socket", "/nowhere/mcr.sock"])
    assert failure.run(supervisor.mcrd, "mcrd") == 1
    said = capfd.readouterr().err.splitlines()
    assert said[-2].endswith("49 led to it")
    assert said[-1] == "Error: ended"


# A standard error that takes nothing


def test_a_blocked_standard_error_blocks_nobody_and_the_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_QUEUE_LINES", 10)
    monkeypatch.setattr(log_writer, "_LONGEST_LINE", 100_000)
    reader, writer = os.pipe()
    monkeypatch.setattr(log_writer, "_STDERR", writer)
    set_up()
    filler = "x" * 65_536  # as much as a pipe holds
    for number in range(100):
        log.log_kind(str(number), Level.NOTICE, filler)
    received = b""
    closing = threading.Thread(target=logging.root.handlers[0].close)
    closing.start()
    while b"dropped" not in received:
        received += os.read(reader, 1 << 20)
    closing.join()
    os.close(reader)
    os.close(writer)
    written = received.count(b" notice ")
    assert 10 <= written <= 12  # the queue, the line in hand, perhaps one between the two
    assert f"{100 - written} log lines were dropped".encode() in received


def test_a_closed_standard_error_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(log_writer, "_STDERR", writer)
    set_up()
    log.notice("nobody reads this")
    logging.root.handlers[0].close()
    os.close(writer)


def test_lines_that_a_full_disk_did_not_take_are_told_when_it_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = tmp_path / "log"
    with Path("/dev/full").open("w") as full, disk.open("w") as file:
        monkeypatch.setattr(log_writer, "_STDERR", full.fileno())
        set_up()
        writer: Any = logging.root.handlers[0]
        for _ in range(3):
            log.notice("lost")
        while not writer._lines.empty():  # the last one may be in hand yet, and finds room
            time.sleep(0.001)
        monkeypatch.setattr(log_writer, "_STDERR", file.fileno())
        log.notice("written")
        writer.close()
    *_, written, told = disk.read_text().splitlines()
    assert written.endswith(" notice [supervisor] written")
    assert re.search(r" warning \[supervisor\] [23] log lines were dropped: standard error did not take them$", told)


@pytest.mark.filterwarnings("default")
def test_a_warning_of_python_is_a_line_of_the_log(lines: Callable[[], list[str]]) -> None:
    set_up()
    warnings.warn("out of order", stacklevel=1)
    (line,) = lines()
    assert " warning [py.warnings] " in line
    assert "out of order" in line
