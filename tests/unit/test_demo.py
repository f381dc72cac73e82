"""The demo's lines do not contradict each other."""

from collections import Counter
from typing import Any

import pytest

from demo import Reading, is_complete, is_explained, verdict


class Clock:
    """Source, relay and receiver, whose counters grow with each question: all have passed on what was sent so far."""

    def __init__(self) -> None:
        self.now = 0

    def progress(self, _wait: float = 0.0) -> Counter[str]:
        self.now += 10
        return Counter(sent=self.now, received=2 * self.now)

    def ask(self, _command: str) -> Any:
        self.now += 10
        ingress = dict.fromkeys(("recv", "matched", "kernel_drops"), self.now)
        return {"ingress": ingress, "egress": {"sent": 2 * self.now, "errors": 0}}


def test_nothing_seems_to_arrive_that_was_not_sent() -> None:
    clock: Any = Clock()
    reading = Reading.take(clock, clock, clock)
    places = reading.by_place()
    assert places["source"]["sent"] >= places["relay in"]["recv"]
    assert places["relay out"]["sent"] >= places["receiver"]["received"]
    assert reading.as_line().startswith("source: sent 30 | relay in: recv 20")


SENT = {"sent": 1_000}
WHOLE = {
    "ingress": {"matched": 1_000, "kernel_drops": 0},
    "egress": {"sent": 2_000, "errors": 0},
}
RECEIVED = {
    "ok": False,
    "expected": 2_000,
    "lost": 65,
    "kernel_drops": 65,
    "duplicated": 0,
    "reordered": 0,
    "corrupted": 0,
    "foreign": 0,
    "wrong_checksums": 0,
}


@pytest.mark.parametrize(
    ("place", "counter", "value"),
    [
        ("ingress", "matched", 999),
        ("ingress", "kernel_drops", 1),
        ("egress", "sent", 1_999),
        ("egress", "errors", 1),
    ],
)
def test_the_relay_lost_none_only_if_its_sums_are_complete(place: str, counter: str, value: int) -> None:
    assert is_complete(SENT, WHOLE)
    assert not is_complete(SENT, {**WHOLE, place: {**WHOLE[place], counter: value}})


@pytest.mark.parametrize(
    ("counter", "value"),
    [("lost", 66), ("kernel_drops", 64), ("reordered", 1), ("foreign", 1), ("wrong_checksums", 1)],
)
def test_what_the_receivers_kernel_did_not_drop_is_not_explained(counter: str, value: int) -> None:
    assert is_explained(RECEIVED)
    assert not is_explained({**RECEIVED, counter: value})
    assert "The relay lost none: this machine was too busy" in str(verdict(RECEIVED, relay_lost_none=True))
    for received, none in ((RECEIVED, False), ({**RECEIVED, counter: value}, True)):
        assert str(verdict(received, relay_lost_none=none)).startswith("Of 2,000 packets: ")


def test_what_has_a_wrong_checksum_is_not_blamed_on_a_busy_machine() -> None:
    said = str(verdict({**RECEIVED, "wrong_checksums": 65}, relay_lost_none=True))
    assert said.startswith("Of 2,000 packets: 65 lost. 65 reached the receiver with a wrong UDP checksum.")
    assert "busy" not in said


@pytest.mark.parametrize(("lost", "excused"), [(100, True), (101, False)])
def test_only_a_little_is_blamed_on_a_busy_machine(lost: int, excused: bool) -> None:
    assert is_explained({**RECEIVED, "lost": lost, "kernel_drops": lost}) == excused
