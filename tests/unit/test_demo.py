"""The demo's lines do not contradict each other."""

from collections import Counter
from typing import Any

from demo import Reading


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
