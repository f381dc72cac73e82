"""Who may be a loop that is full is refused for a moment: whether it falls silent, and what is told of it."""

import logging

import attrs
import pytest
import trio.testing

from loop_scene import CROWD, LOOP, NAMED, OVER, PLACED, RETURNER, UNSURE, Scene, echoed, silent
from mcr.diagnosis.loop_findings import with_loops
from mcr.relay.placement import PlacedRule
from mcr.tap.copies import Crowd, Echo, Origin
from mcr.tap.returns import Verdict


def with_range() -> PlacedRule:
    return attrs.evolve(PLACED, rule=attrs.evolve(PLACED.rule, input=attrs.evolve(PLACED.rule.input, last_port=5001)))


async def begin_trial(scene: Scene, rate: int = 4000, returned: int = 1000) -> None:
    """Somebody sends the same few payloads, until a look ends; some of them are on their way then."""
    scene.look_seconds = 0.4
    await scene.pass_time(0.9, rate, CROWD)
    await scene.pass_time(0.02, rate, returned=returned)


async def test_who_falls_silent_by_being_refused_is_a_loop(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Though nothing of others was seen to come back; that each datagram does once for each output is no circle."""
    began = trio.current_time()
    while not scene.sources():
        scene.look_seconds = 0.4
        await scene.pass_time(0.05, 4000, CROWD)
    assert trio.current_time() < began + 1
    assert scene.watch.told() == ()
    await scene.pass_time(0.04, 100, returned=4000)  # what is on its way
    await scene.pass_time(0.3, 500, echoed(1), returned=500)
    (finding,) = with_loops([], scene.watch.told(), {})
    assert finding.what.endswith("a loop over another machine, and the rule takes nothing from 198.18.0.9")
    assert "packets a second came from there, and 500 once they were refused; noticed " in finding.evidence
    await scene.pass_time(30, 500, returned=500)
    assert scene.sources() == ["198.18.0.9"]
    assert [each.split(": ")[1][:35] for each in caplog.messages] == [
        "what 198.18.0.9 (02:00:00:00:00:09)",
        "what it sends on seems to come back",
        "what 198.18.0.9 (02:00:00:00:00:09)",
    ]


async def test_who_goes_on_while_it_is_refused_is_a_source(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It loses a tenth of a second, once in ten minutes, and is named."""
    await begin_trial(scene)
    assert scene.sources() == ["198.18.0.9"]
    assert scene.looks[-1].is_to_be_tried
    await scene.pass_time(0.12, 0, returned=4000)
    assert scene.sources() == []
    assert "it went on while it was refused, as a source does; it is not tried again for 10 minutes" in caplog.text
    await scene.pass_time(60, 4000)
    autojump_clock.jump(480)  # in which nothing flows
    await scene.pass_time(50, 4000)
    assert not scene.looks[-1].is_to_be_tried
    assert caplog.text.count("is refused for a moment") == 1
    assert "a source that repeats itself, or a loop" in caplog.text
    assert (scene.watch.loops(), len(scene.watch.told())) == ((), 1)
    while not scene.sources():
        await scene.pass_time(0.5, 4000)
    assert 600 < trio.current_time() < 670
    assert "seems to come back" not in caplog.text


@pytest.mark.slow
async def test_a_trial_on_a_busy_machine_is_held_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once: the next one counts."""
    scene.actors.slowness = 0.15
    await begin_trial(scene)
    await scene.pass_time(0.5, 0, returned=4000)
    assert scene.sources() == []
    assert "as a source does; it is not tried again for 10 s; refused: " in caplog.text
    began = trio.current_time()
    while not scene.sources():
        await scene.pass_time(0.1, 4000)
    assert 9 < trio.current_time() - began < 20
    await scene.pass_time(0.5, 0, returned=4000)
    await scene.pass_time(590, 4000)
    assert scene.sources() == []


async def test_who_pauses_while_it_is_refused_is_taken_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing more is told of a loop. A short pause proves nothing."""
    await begin_trial(scene)
    await scene.pass_time(0.15, 50)
    await scene.pass_time(0.1, 50, returned=4000)
    assert scene.sources() == []
    assert "seems to come back" not in caplog.text
    autojump_clock.jump(690)
    await scene.pass_time(10, 10)
    await begin_trial(scene)
    await scene.pass_time(0.3, 50, UNSURE)
    assert (scene.sources(), len(scene.watch.loops())) == (["198.18.0.9"], 1)
    await scene.pass_time(0.6, 50, returned=4000)
    assert (scene.sources(), scene.watch.loops()) == ([], ())
    assert "(02:00:00:00:00:09) has only paused: it is in no loop" in caplog.text


@pytest.mark.parametrize(("rate", "returned"), [(0, 0), (4000, 0), (4000, 100)], ids=["gone", "taken", "hardly"])
async def test_a_refusal_that_has_no_effect_proves_nothing(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, rate: int, returned: int
) -> None:
    """Nobody has dropped anything of it, or the rule goes on to take it."""
    await begin_trial(scene, returned=0)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(1.1, rate, UNSURE, returned=returned)
    assert (scene.sources(), scene.watch.loops()) == ([], ())
    assert "it was not seen whether it falls silent; it is not tried again for 10 " in caplog.text
    assert "seems to come back" not in caplog.text


@pytest.mark.parametrize("until", [0.0, 0.06], ids=["at once", "meanwhile"])
async def test_a_worker_that_stands_still_proves_nothing(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, until: float
) -> None:
    """The source goes on, and is not counted; then all that has waited is."""
    await begin_trial(scene)
    await scene.pass_time(until, 50)
    scene.actors.is_stopped = True
    await scene.pass_time(0.4)
    assert scene.sources() == ["198.18.0.9"]
    scene.actors.is_stopped = False
    await scene.pass_time(0.12, 0, returned=20_000)
    assert scene.sources() == []
    assert "it went on while it was refused, as a source does; it is not tried again for 10 s" in caplog.text
    assert "seems to come back" not in caplog.text


async def test_where_a_loop_is_told_of_nobody_else_is_tried(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    other = Origin(bytes.fromhex("020000000008"), bytes([198, 18, 0, 8]))
    await scene.pass_time(2, 1000, LOOP)
    scene.look_seconds = 0.4
    await scene.pass_time(12, 4000, Verdict(crowd=Crowd(other, 16_000, 4, 9), seconds=0.5))
    assert scene.sources() == ["198.18.0.9"]
    assert len(scene.watch.loops()) == 1
    assert "is refused for a moment" not in caplog.text


async def test_who_is_proven_as_a_whole_after_a_trial_has_not_only_paused(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await begin_trial(scene)
    await scene.pass_time(0.3, 50, UNSURE)
    await scene.pass_time(2, 1000, LOOP)
    await scene.pass_time(1, 1000, UNSURE, returned=4000)
    assert (scene.sources(), len(scene.watch.loops())) == (["198.18.0.9"], 1)


@pytest.mark.parametrize(
    ("verdict", "seconds"),
    [
        (silent(64), 10),
        (Verdict(echoes=(Echo(RETURNER, 0, 0, 50, is_shared=True),), seconds=0.5), 10),
        (UNSURE, 62),
    ],
    ids=["nothing comes", "others send from there", "nothing is seen"],
)
async def test_who_only_fell_silent_is_told_of_no_more_and_not_tried_again_at_once(
    scene: Scene,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    verdict: Verdict,
    seconds: float,
) -> None:
    """It may have paused."""
    await begin_trial(scene)
    await scene.pass_time(0.3, 100, UNSURE)
    assert (scene.sources(), len(scene.watch.loops())) == (["198.18.0.9"], 1)
    await scene.pass_time(seconds, 100, verdict)
    assert (scene.sources(), scene.watch.loops()) == ([], ())
    await scene.pass_time(30, 4000, CROWD)
    assert caplog.text.count("is refused for a moment") == 1


async def test_what_a_circle_was_fed_with_from_its_other_end_is_taken_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """There the machine that brings it also brings what nobody sends here."""
    await begin_trial(scene)
    await scene.pass_time(0.25, 0, UNSURE, returned=100)
    assert (scene.sources(), len(scene.watch.loops())) == (["198.18.0.9"], 1)
    await scene.pass_time(0.3, 0, returned=100)
    assert scene.sources() == []
    assert "it goes on while others are silent" in caplog.text
    assert scene.watch.told() == ()
    assert "rule tv: 198.18.0.9 (02:00:00:00:00:09) now sends what is its own: it closes no loop" in caplog.text
    await scene.pass_time(30, 4000, CROWD)  # unless it does, which is told as what it looks like
    assert (scene.sources(), scene.watch.loops(), len(scene.watch.told())) == ([], (), 1)


@pytest.mark.parametrize(
    ("placed", "rate", "crowd"),
    [
        (PLACED, 1900, CROWD.crowd),
        (PLACED, 4000, attrs.evolve(CROWD.crowd, is_shared=True) if CROWD.crowd else None),
        (with_range(), 4000, CROWD.crowd),
    ],
    ids=["seldom", "shared", "range"],
)
async def test_who_is_not_refused_for_a_moment(
    scene: Scene, autojump_clock: trio.testing.MockClock, placed: PlacedRule, rate: int, crowd: Crowd
) -> None:
    await scene.stats.rules_placed((placed,), ())
    scene.look_seconds = 0.4
    await scene.pass_time(10, rate, Verdict(crowd=crowd, seconds=0.4))
    assert scene.looks
    assert scene.sources() == []


async def test_a_loop_that_lasts_is_told_of_though_the_one_before_was_just_over(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The last words are not that it is over."""
    await scene.pass_time(2, 1000, LOOP)
    await scene.pass_time(12, 10, OVER)
    assert scene.watch.loops() == ()
    await scene.pass_time(60, 1000, LOOP)
    assert caplog.text.count("seems to come back") == 2
    assert "seems to come back" in caplog.messages[-1]


async def test_a_trial_that_a_change_ends_does_not_hide_later_loops(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In `debug` they would be."""
    await scene.pass_time(2, 1000, LOOP)
    await scene.pass_time(12, 10, OVER)
    scene.look_seconds = 0.4
    while not scene.sources():
        await scene.pass_time(0.02, 4000, CROWD)
    await scene.stats.rules_placed((attrs.evolve(PLACED, rule=attrs.evolve(PLACED.rule, name="x")),), ())
    await scene.pass_time(1, 10, UNSURE)
    assert scene.sources() == []
    await scene.pass_time(200, 0, UNSURE)
    caplog.clear()
    caplog.set_level(logging.DEBUG, "mcr.network")
    scene.look_seconds = 0
    await scene.pass_time(3, 1000, LOOP)
    told = [each.levelname for each in caplog.records if "seems to come back" in each.getMessage()]
    assert told == ["WARNING"]


async def test_a_loop_ends_with_its_rule(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What is told of the next one is in `debug`, as the minute is not over."""
    await scene.pass_time(2, 1000, LOOP)
    await scene.stats.rules_placed((NAMED,), (PLACED.rule.rule_id,))
    await scene.pass_time(1.1, 0, UNSURE)
    await scene.stats.rules_placed((PLACED,), ())
    await scene.pass_time(1.1, 0, UNSURE)
    await scene.pass_time(5, 1000, LOOP)
    assert scene.watch.loops()
    assert caplog.text.count("seems to come back") == 1
