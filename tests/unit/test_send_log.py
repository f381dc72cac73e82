"""What the log says of sends that the kernel path cannot make."""

import errno
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address

import attrs
import pytest

from counted import place
from mcr.errors import describe_errno
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.relay.placement import PlacedRule
from mcr.shm.kernel_counters import Taken
from mcr.shm.segment import Segment
from mcr.stats.readings import Reading
from mcr.stats.send_log import SendErrors

OUTPUTS = tuple(Output(ip_address(f"239.2.2.{number}"), 6000, "out0") for number in range(6))
PLACED = place([Rule("tv", Input("in0", ip_address("239.1.1.1"), 5000), OUTPUTS)])
DOWN, FORBIDDEN = errno.ENETDOWN, errno.EPERM

Tick = Callable[..., list[str]]
"""A second later, in which outputs by their numbers have failed so often; with which error."""


class Kernel:
    """Its counters, as the test has them."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._errors = 0
        self._late = 0
        self._time = 0.0
        self._log = SendErrors()
        self._log.begin(self._read())

    def _read(self) -> Reading:
        counters = self._segment.read(1, len(OUTPUTS))
        return Reading(self._time, (), 0, taken=Taken(errors=self._errors), kernel=counters)

    def tick(
        self,
        failed: Mapping[int, int] | None = None,
        error: int = DOWN,
        seconds: float = 1.0,
        rules: tuple[PlacedRule, ...] = PLACED,
        late: int = 0,
    ) -> list[str]:
        """Of the last errors, so many come between the reading of the sum and that of the outputs."""
        self._errors += self._late - late
        self._late = late
        for number, count in (failed or {}).items():
            cell = self._segment.shared.outputs[number]
            cell.tag = PLACED[0].outputs[number].tag
            cell.errors += count
            cell.last_error = 1 << 16 | error
            self._errors += count
        self._time += seconds
        return [*self._log.note(self._read(), rules)]


@pytest.fixture
def tick() -> Iterator[Tick]:
    with Segment(0) as segment:
        yield Kernel(segment).tick


def failed(number: int, more: str = "", error: int = DOWN) -> str:
    return f"send to 239.2.2.{number}:6000:out0 failed: {describe_errno(error)}{more}"


def test_nothing_is_written_while_nothing_fails(tick: Tick) -> None:
    assert [tick() for _ in range(3)] == [[]] * 3


def test_an_output_that_fails_is_written_at_once_and_then_more_and_more_seldom(tick: Tick) -> None:
    assert tick({0: 1}) == [failed(0)]
    lines = [(second, each) for second in range(1, 400) for each in tick({0: 10})]
    assert [second for second, _ in lines] == [1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]
    assert lines[0][1] == failed(0, " (10 times in 1.0 s)")
    assert lines[-1][1] == failed(0, " (600 times in 60.0 s)")


def test_what_is_held_back_is_written_though_nothing_fails_any_more(tick: Tick) -> None:
    assert tick({0: 1}) == [failed(0)]
    assert tick({0: 5}, seconds=0.5) == []
    assert [tick() for _ in range(4)] == [[failed(0, " (5 times in 1.5 s)")], [], [], []]


def test_another_error_of_an_output_is_news(tick: Tick) -> None:
    tick({0: 1})
    assert tick({0: 1}, FORBIDDEN, 0.1) == [failed(0, error=FORBIDDEN)]


def test_two_errors_by_turns_are_soon_no_news_and_each_is_written_with_its_cause(tick: Tick) -> None:
    written = [tick({0: 1}, (DOWN, FORBIDDEN)[second % 2]) for second in range(70)]
    assert [second for second, lines in enumerate(written) if lines] == [0, 1, 2, 4, 8, 16, 32, 64]
    assert written[:3] == [[failed(0)], [failed(0, error=FORBIDDEN)], [failed(0)]]
    assert written[64] == [
        failed(0, " (16 times in 32.0 s)", FORBIDDEN),
        failed(0, " (16 times in 31.0 s)"),
    ]


def test_an_error_that_the_sum_had_not_yet_at_the_last_reading_is_written(tick: Tick) -> None:
    """The outputs' counters are read after the sum."""
    assert tick({0: 1}, late=1) == []
    assert tick() == [failed(0)]
    assert tick({1: 2}, late=1) == [failed(1, " (2 times in 1.0 s)")]
    assert tick() == []


def test_many_outputs_that_go_on_failing_are_looked_through_less_often(
    tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcr.stats.send_log._LOOKED_AT", len(OUTPUTS) / 3)
    assert [tick({0: 1}) for _ in range(4)] == [[failed(0)], [], [], [failed(0, " (3 times in 3.0 s)")]]


def test_an_output_that_was_well_for_a_minute_is_news_again(tick: Tick) -> None:
    for _ in range(40):
        tick({0: 1})
    assert tick({0: 1}) == []
    while tick(seconds=30.0):
        pass
    tick(seconds=61.0)
    assert tick({0: 1}) == [failed(0)]


def test_of_many_outputs_three_have_lines_and_the_others_one(tick: Tick) -> None:
    assert tick(dict.fromkeys(range(6), 1)) == [
        failed(0),
        failed(1),
        failed(2),
        failed(3, " (3 times in 1.0 s), and so for 3 outputs together"),
    ]
    assert [len(tick(dict.fromkeys(range(6), 1))) for _ in range(4)] == [4, 0, 4, 0]


def test_of_the_others_it_is_said_if_they_fail_with_several_errors(tick: Tick) -> None:
    tick(dict.fromkeys(range(4), 1))
    tick({4: 1}, FORBIDDEN)
    assert tick(dict.fromkeys(range(4), 1), seconds=0.1) == []
    (*_, others) = tick({4: 1}, FORBIDDEN, 9.0)
    assert others == failed(3, ", and other errors (2 times in 9.1 s), and so for 2 outputs together")


def test_a_new_output_goes_first(tick: Tick) -> None:
    tick(dict.fromkeys(range(4), 1))
    assert tick(dict.fromkeys(range(6), 1))[:2] == [failed(4), failed(5)]


def test_what_was_counted_before_rules_were_placed_is_not_news(tick: Tick) -> None:
    assert tick({0: 7}, rules=()) == []
    assert tick({1: 1}) == [failed(1)]


def test_outputs_of_rules_that_are_placed_later_are_looked_through(tick: Tick) -> None:
    few = place([attrs.evolve(PLACED[0].rule, outputs=OUTPUTS[:1])])
    assert tick({0: 1}, rules=few) == [failed(0)]
    assert tick({1: 1}) == [failed(1)]
