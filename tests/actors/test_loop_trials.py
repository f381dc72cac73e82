"""Loops that are so full that they are not proven as a whole: who is tried, who is acquitted, and what is told."""

from ipaddress import ip_address

import attrs
import pytest
import trio.testing

from loop_scene import CROWD, LOOP, NAMED, PART, PLACED, RETURNER, UNSURE, VARIED, Scene, echoed, silent
from mcr.diagnosis.loop_findings import with_loops
from mcr.model.finding import Finding
from mcr.model.finding import Verdict as Judged
from mcr.model.rule import Output
from mcr.relay.placement import PlacedRule
from mcr.tap.copies import AGAIN, Crowd, Echo, Origin, Return, again
from mcr.tap.returns import Verdict


async def test_who_returns_a_part_stays_refused_if_that_breaks_the_circle(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    await scene.pass_time(0.6, 1000, PART)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(3, 100, echoed(1), returned=100)
    await scene.pass_time(20, 100, UNSURE, returned=100)
    assert scene.sources() == ["198.18.0.9"]


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (echoed(AGAIN), "what others send went on to come back again and again while it was refused"),
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
    """Within some seconds, and not tried again for long; it is told of, with what to do. The whole is proof enough."""
    await scene.pass_time(0.6, 1000, PART)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(6, 1000, verdict, returned=1000)
    assert scene.sources() == []
    then = "that is tried again in 60 s" if verdict == UNSURE else "it is not tried again for 10 minutes"
    assert f"is taken again: {why}; {then}" in caplog.text
    await scene.pass_time(30, 1000, PART)
    assert scene.sources() == []
    (finding,) = with_loops([], scene.watch.told(), {})
    assert finding.what.endswith(f"; it goes on, as {why}")
    assert finding.remedy
    assert "--input-source" in finding.remedy
    await scene.pass_time(11, 1000, LOOP)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(20, 100, echoed(AGAIN), returned=100)
    assert scene.sources() == ["198.18.0.9"]


async def test_no_trial_is_needed_once_the_whole_is_proven(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(6, 1000, attrs.evolve(echoed(AGAIN), returners=LOOP.returners), returned=1000)
    await scene.pass_time(6, 1000, UNSURE, returned=1000)
    assert scene.sources() == ["198.18.0.9"]
    assert "is taken again" not in caplog.text


@pytest.mark.slow
async def test_a_trial_that_shows_nothing_is_held_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However often that was so: it is no evidence."""
    for times in range(1, 4):
        while not scene.sources():
            await scene.pass_time(1, 1000, PART)
        await scene.pass_time(6, 1000, UNSURE, returned=1000)
        assert scene.sources() == []
        assert caplog.text.count("that is tried again in 60 s") == times
    assert trio.current_time() < 300


async def test_two_returners_do_not_acquit_each_other(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes back again and again may do so by the other one: it is refused as well, and the trial begins anew."""
    other = Origin(bytes.fromhex("020000000008"), bytes([198, 18, 0, 8]))
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(2.5, 1000, UNSURE)
    both = attrs.evolve(echoed(AGAIN), returners=(*PART.returners, Return(other, 20, 50, is_part=True)))
    await scene.pass_time(1.5, 1000, both)
    assert scene.sources() == ["198.18.0.9", "198.18.0.8"]
    await scene.pass_time(3, 1000, UNSURE)
    assert scene.sources() == ["198.18.0.9", "198.18.0.8"]
    await scene.pass_time(2, 1000, echoed(AGAIN))
    assert "198.18.0.9" not in scene.sources()


async def test_of_whom_little_is_known_may_close_the_circle_as_well(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is about to be refused, so who is refused already is not acquitted for what comes back."""
    other = Origin(bytes.fromhex("020000000008"), bytes([198, 18, 0, 8]))
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(2.5, 1000, UNSURE)
    echoes = (*echoed(AGAIN).echoes, Echo(other, 4, 0, 5, is_little=True))
    await scene.pass_time(1.5, 1000, Verdict((Return(other, 20, 50, is_part=True),), echoes=echoes, seconds=0.5))
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(1.5, 1000, echoed(AGAIN))
    assert scene.sources() == []


async def test_a_look_in_which_something_was_lost_ends_no_trial(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That hardly anything came back may be for what was lost."""
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(6, 1000, attrs.evolve(echoed(1), is_whole=False), returned=1000)
    assert scene.sources() == []
    assert "no look has shown that to refuse it ends the loop" in caplog.text


async def test_a_circle_that_was_broken_once_may_be_seen_to_go_on(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One look may have seen too little: who is refused for a part stays so only as long as no look says otherwise."""
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(20, 100, echoed(1), returned=100)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, echoed(AGAIN), returned=100)
    assert scene.sources() == []
    assert "went on to come back again and again" in caplog.text


def with_outputs(count: int) -> PlacedRule:
    outputs = tuple(Output(ip_address(f"239.9.9.{number}"), 6000, "eth1") for number in range(count))
    return attrs.evolve(PLACED, rule=attrs.evolve(PLACED.rule, outputs=outputs))


@pytest.mark.slow
async def test_each_output_may_bring_a_datagram_back_once(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Or four times, as the other relay may have several rules, too: the circle is broken all the same."""
    await scene.stats.rules_placed((with_outputs(6),), ())
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(20, 100, echoed(6), returned=600)
    await scene.pass_time(20, 100, echoed(again(6) - 1), returned=600)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, echoed(again(6)), returned=600)
    assert scene.sources() == []


def accusing(turns: int) -> Verdict:
    return attrs.evolve(PART, returners=tuple(attrs.evolve(each, turns=turns) for each in PART.returners))


@pytest.mark.parametrize(("outputs", "times"), [(2, AGAIN), (2, 9), (6, AGAIN), (6, 25)])
async def test_a_device_that_repeats_what_it_hears_is_taken_again(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, outputs: int, times: int
) -> None:
    """However many outputs the rule has: it does so as often as before, and a circle that is broken does not."""
    await scene.stats.rules_placed((with_outputs(outputs),), ())
    await scene.pass_time(0.6, 1000, accusing(times - 2))
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(3, 1000, echoed(times), returned=1000)
    assert scene.sources() == []
    assert "went on to come back again and again" in caplog.text


async def test_a_circle_that_brings_half_of_what_it_did_is_broken(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Four times for each of two outputs is what the other relay makes of it."""
    await scene.stats.rules_placed((with_outputs(2),), ())
    await scene.pass_time(0.6, 1000, accusing(12))
    await scene.pass_time(20, 100, echoed(8), returned=800)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, echoed(9), returned=900)
    assert scene.sources() == []


async def test_on_a_full_link_a_few_that_are_lost_end_nothing(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a trial, whatever is lost, nor the refusal after it."""
    await scene.pass_time(0.6, 1000, PART)
    await scene.pass_time(3, 100, silent(64), returned=100)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(10, 100, echoed(1), returned=100)
    await scene.pass_time(20, 100, silent(63), returned=100)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, silent(64), returned=100)
    assert (scene.sources(), scene.watch.loops()) == ([], ())
    assert "is taken again: it returns nothing any more; refused: " in caplog.text


async def test_a_trial_waits_for_a_look(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """But not for ever."""
    await scene.pass_time(0.6, 1000, PART)
    assert await scene.pass_time(13) == 0
    assert scene.sources() == ["198.18.0.9"]
    assert await scene.pass_time(3) == 0
    assert scene.sources() == []
    assert "no look has shown that to refuse it ends the loop" in caplog.text


async def test_what_a_full_link_still_brings_is_no_source(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """For a second, though a look has seen the circle broken; who goes on alone later is one, also during a trial."""
    while not scene.sources():
        await scene.pass_time(0.05, 1000, PART)
    await scene.pass_time(0.4, 100, echoed(1), returned=100)
    await scene.pass_time(0.5, 0, returned=100)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(1, 0, returned=100)
    assert scene.sources() == []
    assert "it goes on while others are silent" in caplog.text


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


async def test_one_payload_is_one(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(20, 4000, Verdict(crowd=Crowd(RETURNER, 16_000, 1, 9), seconds=0.5))
    assert "sends the same 1 payload again" in caplog.text


async def test_a_source_that_repeats_itself_seldom_is_not_told_of(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(60, 1900, CROWD)
    assert scene.watch.told() == ()
    assert not caplog.records


@pytest.mark.slow
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


async def test_a_very_busy_rule_is_looked_at_at_once_and_then_seldom(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """A look slows it down: the next one is a minute later."""
    assert await scene.pass_time(0.6, 150_000, CROWD) == 1
    assert await scene.pass_time(55, 150_000) == 0
    assert await scene.pass_time(60, 150_000) == 1
    assert len(scene.watch.told()) == 1
