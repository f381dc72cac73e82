"""Loops that are so full that they are not proven as a whole: who is tried, who is acquitted, and what is told."""

import attrs
import pytest
import trio.testing

from loop_scene import LOOP, NAMED, PLACED, RETURNER, UNSURE, VARIED, Scene
from mcr.diagnosis.loop_findings import with_loops
from mcr.model.finding import Finding
from mcr.model.finding import Verdict as Judged
from mcr.tap.copies import Crowd, Echo
from mcr.tap.returns import Verdict

PART = attrs.evolve(LOOP, returners=(attrs.evolve(LOOP.returners[0], returned=20, is_part=True),))
CROWD = Verdict(crowd=Crowd(RETURNER, 16_000, 4, 9), seconds=0.5)


def echoed(again: int) -> Verdict:
    return Verdict(echoes=(Echo(RETURNER, 48, 0, 50, again=again),), seconds=0.5)


async def test_who_returns_a_part_stays_refused_if_that_breaks_the_circle(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    await scene.pass_time(1.5, 1000, PART)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(3, 100, echoed(0), returned=100)
    await scene.pass_time(20, 100, UNSURE, returned=100)
    assert scene.sources() == ["198.18.0.9"]


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (echoed(1), "what others send went on to come back again and again while it was refused"),
        (UNSURE, "no look has shown that to refuse it ends the loop"),
    ],
    ids=["unbroken", "unseen"],
)
async def test_who_goes_on_to_return_it_is_taken_again(
    scene: Scene,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    verdict: Verdict,
    why: str,
) -> None:
    """Within some seconds, and not tried again for ten minutes; it is told of, with what to do."""
    await scene.pass_time(1.5, 1000, PART)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(6, 1000, verdict, returned=1000)
    assert scene.sources() == []
    assert f"is taken again: {why}; it is not refused again for 10 minutes" in caplog.text
    await scene.pass_time(30, 1000, PART)
    assert scene.sources() == []
    (finding,) = with_loops([], scene.watch.told(), {})
    assert finding.what.endswith(f"; it goes on, as {why}")
    assert finding.remedy
    assert "--input-source" in finding.remedy


async def test_what_may_be_a_full_loop_is_told_of_and_nobody_is_refused(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, until a look sees something else."""
    await scene.pass_time(60, 4000, CROWD)
    assert (scene.sources(), scene.watch.loops()) == ([], ())
    (finding,) = with_loops([Finding("loop", Judged.OK, "", "")], scene.watch.told(), {"eth0": "lan0"})
    assert finding.verdict is Judged.ADVICE
    assert finding.what.startswith("198.18.0.9 (02:00:00:00:00:09) sends rule tv the same 4 payloads again and again")
    assert finding.evidence.endswith(" s ago: 16,000 datagrams from there within 0.5 s, 9 of others")
    assert "ttl=dec" in finding.remedy
    assert "--input-source ADDRESS" in finding.remedy
    (line,) = [each for each in caplog.messages if "the same 4 payloads" in each]
    assert line.endswith("a source that repeats itself, or a loop over another machine that is full")
    await scene.pass_time(100, 4000, VARIED)
    assert scene.watch.told() == ()


async def test_a_source_that_repeats_itself_seldom_is_not_told_of(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(60, 1900, CROWD)
    assert scene.watch.told() == ()
    assert not caplog.records


async def test_a_suspicion_ends_with_its_rule_and_when_it_is_old(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    await scene.pass_time(5, 4000, CROWD)
    await scene.pass_time(150)
    assert scene.watch.told()
    await scene.pass_time(40)
    assert scene.watch.told() == ()
    await scene.pass_time(70, 9000)
    assert scene.watch.told()
    await scene.stats.rules_placed((NAMED,), (PLACED.rule.rule_id,))
    await scene.pass_time(1)
    assert scene.watch.told() == ()


async def test_a_very_busy_rule_is_looked_at_later_and_seldom(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """A look slows it down: first after some seconds, then once a minute."""
    assert await scene.pass_time(4, 150_000, CROWD) == 0
    assert await scene.pass_time(4, 150_000) == 1
    assert await scene.pass_time(50, 150_000) == 0
    assert await scene.pass_time(60, 150_000) == 1
    assert len(scene.watch.told()) == 1


async def test_a_rule_that_becomes_very_busy_is_looked_at_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """However long it was known."""
    assert await scene.pass_time(2000, 1000, VARIED) > 5
    assert await scene.pass_time(4, 150_000, CROWD) == 0
    assert await scene.pass_time(5, 150_000) == 1
