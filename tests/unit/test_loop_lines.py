"""How loud the log speaks of loops that come and go."""

import trio
import trio.testing

from mcr.actors.loop_lines import LoopLines


async def test_one_loop_a_minute_is_told_of_aloud(autojump_clock: trio.testing.MockClock) -> None:
    """What is told of in `debug` meanwhile does not make it longer."""
    lines, quiet = LoopLines(), []
    for _ in range(4):
        lines.begin(7)
        quiet.append(lines.are_quiet(7))
        lines.end(7)
        await trio.sleep(25)
    assert quiet == [False, True, True, False]


async def test_a_loop_that_lasts_is_told_of_aloud_once_the_minute_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Once."""
    lines = LoopLines()
    lines.begin(7)
    assert not lines.is_late(7)
    lines.end(7)
    await trio.sleep(20)
    lines.begin(7)
    await trio.sleep(39)
    assert not lines.is_late(7)
    assert lines.are_quiet(7)
    await trio.sleep(2)
    assert [lines.is_late(7), lines.is_late(7), lines.are_quiet(7)] == [True, False, False]
