import errno
import logging
import os
import socket
import struct
import time

import attrs
import pytest

from mcr._native import lib
from mcr.logs.worker_records import WORDINGS, describe, kind, log_record
from mcr.model.log import Facility, Level
from mcr.shm.records import LogRecord


class Names:
    def capture(self, slot: int) -> str:
        return f"eth{slot}"

    def rule(self, slot: int) -> str:
        return f"rule-{slot}"

    def output(self, slot: int) -> str:
        return f"239.0.0.{slot}:5000:eth9"


def record(code: int, *args: int, repeats: int = 1, subjects: int = 1) -> LogRecord:
    a, b, c = (*args, 0, 0, 0)[:3]
    times = (3_500_000_000, 1_000_000_000)
    return LogRecord(*times, repeats, subjects, code, Level.INFO, Facility.WORKER, (a, b, c))


def test_every_code_has_words() -> None:
    assert sorted(WORDINGS) == list(range(lib.MCR_LOG_CODES))


@pytest.mark.parametrize("code", range(lib.MCR_LOG_CODES))
def test_words_take_any_arguments(code: int) -> None:
    """Records come from another process: no number in them may raise."""
    for args in [(0, 0, 0), (2**64 - 1, 2**64 - 1, 2**64 - 1)]:
        assert describe(record(code, *args), Names())


def test_no_match_names_group_port_and_interface() -> None:
    group = struct.unpack("=I", socket.inet_aton("239.1.1.1"))[0]
    text = describe(record(lib.MCR_LOG_NO_MATCH, 2, group, socket.htons(5001)), Names())
    assert text == "no rule for 239.1.1.1:5001 on eth2"


def test_a_loop_names_flow_source_and_interface() -> None:
    group, source = (struct.unpack("=I", socket.inet_aton(each))[0] for each in ("239.1.1.1", "198.18.0.3"))
    text = describe(record(lib.MCR_LOG_LOOP, 2, group | socket.htons(5001) << 32, source), Names())
    assert text.startswith("239.1.1.1:5001 from 198.18.0.3, which this machine sent, comes back to eth2: a loop")


def test_send_error_names_destination_and_system_error() -> None:
    text = describe(record(lib.MCR_LOG_SEND_FAILED, 4, errno.ENETDOWN), Names())
    assert text == f"send to 239.0.0.4:5000:eth9 failed: {os.strerror(errno.ENETDOWN)} (os error {errno.ENETDOWN})"


def test_repeats_are_counted_with_their_span() -> None:
    assert describe(record(lib.MCR_LOG_DRAINED, repeats=12), Names()).endswith("(12 times in 2.5 s)")


@pytest.mark.parametrize(
    ("subjects", "told"), [(37, "37 outputs"), (lib.MCR_LOG_SUBJECTS, f"{lib.MCR_LOG_SUBJECTS} or more outputs")]
)
def test_a_record_for_several_outputs_says_for_how_many(subjects: int, told: str) -> None:
    text = describe(record(lib.MCR_LOG_SEND_FAILED, 4, errno.ENETDOWN, repeats=1234, subjects=subjects), Names())
    assert text.endswith(f" (os error 100) (the newest of 1,234 times in 2.5 s, for {told})")


def test_facilities_are_numbered_as_in_the_native_code() -> None:
    assert (Facility.WORKER, Facility.INGRESS, Facility.EGRESS) == (
        lib.MCR_FACILITY_WORKER,
        lib.MCR_FACILITY_INGRESS,
        lib.MCR_FACILITY_EGRESS,
    )
    assert len(Facility) == lib.MCR_FACILITIES


def test_codes_that_no_sound_worker_writes_are_one_kind_of_lines() -> None:
    """Each kind may say so many lines at once (`mcr.logs.limit`), and a worker may write any of 65,536 codes."""
    kinds = {kind(record(code)) for code in range(1 << 16)}
    assert len(kinds) == lib.MCR_LOG_CODES + 1


def test_a_line_has_the_time_of_the_record_and_not_of_its_reader(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mcr.worker"):
        log_record(1, record(lib.MCR_LOG_DRAINED), Names())
    (line,) = caplog.records
    assert (line.created, line.getMessage()) == (3.5, "worker 1: drained, stopping")


def test_a_record_that_claims_to_be_of_the_future_is_of_now(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mcr.worker"):
        log_record(1, attrs.evolve(record(lib.MCR_LOG_DRAINED), time_ns=2**64 - 1), Names())
    assert time.time() - 60 < caplog.records[0].created <= time.time()


def test_a_record_below_the_level_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mcr.worker"):
        log_record(1, record(lib.MCR_LOG_DRAINED), Names())
    assert not caplog.records
