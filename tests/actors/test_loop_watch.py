"""When rules are looked at for loops over other machines, what is told, who is refused: the looks are the test's."""

import errno
from functools import partial
from ipaddress import ip_address

import attrs
import pytest
import trio
import trio.testing

from loop_scene import LOOP, NAMED, OVER, OWN, PLACED, RETURNER, RULE, UNSURE, VARIED, Scene
from mcr.actors import loop_watch
from mcr.diagnosis.loop_findings import with_loops
from mcr.errors import SystemFault
from mcr.model.finding import Finding
from mcr.model.finding import Verdict as Judged
from mcr.shm.segment import Segment, WorkerCounters
from mcr.tap.copies import Echo
from mcr.tap.returns import Verdict


async def test_all_counters_are_read_once_a_second(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """For rates and loops, whoever is woken first; it costs also an idle mcrd. In between, those of rules alone are."""
    readings, read, woken = list[tuple[int, int]](), Segment.read, list[float]()

    def noted(segment: Segment, rules: int = 0, outputs: int = 0) -> WorkerCounters:
        readings.append((rules, outputs))
        return read(segment, rules, outputs)

    def beat(slots: int) -> int:
        woken.append(trio.current_time())
        return Scene.all_matched(scene, slots)

    await scene.pass_time(2, 200)
    monkeypatch.setattr(Segment, "read", noted)
    monkeypatch.setattr(scene, "all_matched", beat)
    every = NAMED.slot + 1, NAMED.outputs[0].slot + 1
    await scene.pass_time(20, 200)
    assert readings == [every] * 20
    assert len(woken) == 40
    await scene.pass_time(10, 4000)
    assert readings.count(every) == 30
    assert len(readings) >= 20 + 38  # four a second, but for the first
    assert {*readings} == {every, (every[0], 0)}


@pytest.mark.parametrize(("rate", "seconds"), [(3000, 0.52), pytest.param(600, 0.9, marks=pytest.mark.slow)])
async def test_a_rule_is_looked_at_within_a_second(
    scene: Scene, autojump_clock: trio.testing.MockClock, rate: int, seconds: float
) -> None:
    """After the first packet, wherever between two readings that comes, and whatever came a while ago."""
    for number in range(6):
        placed = attrs.evolve(PLACED, tag=100 + number)
        await scene.stats.rules_placed((placed,), (PLACED.rule.rule_id,))
        scene.shared.rules[PLACED.slot].tag = placed.tag
        await scene.pass_time(30 + number / 12)
        began = trio.current_time()
        while not await scene.pass_time(0.01, rate):
            assert trio.current_time() <= began + seconds


async def test_the_busiest_rule_is_looked_at_first(
    scene: Scene, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that are new. The next one soon, or a second later if the look was dear."""
    former = "tv", "one"
    for clock, least, most in (([0.0, 0.01] * 9, 0.2, 0.3), ([0.0, 0.5] * 9, 1.0, 1.3)):
        two = attrs.evolve(RULE, rule_id="two", input=attrs.evolve(RULE.input, port=7))
        rules = [
            attrs.evolve(PLACED, tag=len(scene.looks) + 10),
            attrs.evolve(PLACED, rule=two, tag=len(scene.looks) + 20, slot=4),
        ]
        await scene.stats.rules_placed(tuple(rules), former)
        former = "tv", "two"
        monkeypatch.setattr(loop_watch, "thread_time", partial(clock.pop, 0))
        for each in rules:
            scene.shared.rules[each.slot].tag = each.tag
        scene.matching, before = rules[0], len(scene.looks)
        await scene.pass_time(40)
        times = list[float]()
        while len(times) < 2:
            scene.shared.rules[rules[1].slot].matched += 15
            if await scene.pass_time(0.01, 1000):
                times.append(trio.current_time())
        assert [each.flows for each in scene.looks[before:]] == [each.flows for each in reversed(rules)]
        assert least <= times[1] - times[0] <= most


@pytest.mark.slow
async def test_a_rule_is_looked_at_ever_more_seldom(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    """And at once when its rate has doubled."""
    assert await scene.pass_time(10, 200) == 0
    assert 5 <= await scene.pass_time(100, 1000) <= 8
    assert 1 <= await scene.pass_time(4, 4000) <= 3
    assert scene.looks[-1].index == 2
    await scene.pass_time(150, 4000, UNSURE)
    assert 2 <= await scene.pass_time(180, 4000) <= 4
    assert await scene.pass_time(300, 4000, VARIED) <= 3


async def test_a_look_knows_what_the_rule_does_not_take(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    await scene.pass_time(3, 1000)
    assert scene.looks[0].left == {OWN.packed}
    assert scene.looks[0].named == {bytes([198, 18, 0, 7])}
    assert scene.looks[0].flows == RULE.input.flows


async def test_a_loop_is_told_of_once_until_it_is_over(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is looked at all the while; and told of again a minute later at the earliest, but refused at once."""
    assert 7 <= await scene.pass_time(50, 1000, LOOP) <= 11
    assert scene.looks[-1].known == {RETURNER}
    (loop,) = scene.watch.loops()
    assert (loop.rule, loop.returners) == (RULE, ("198.18.0.9 (02:00:00:00:00:09)",))
    (finding,) = with_loops([Finding("loop", Judged.OK, "", "")], [loop], {"eth0": "lan0"})
    assert finding.what.startswith(
        "what rule tv sends on seems to come back to lan0 from 198.18.0.9 (02:00:00:00:00:09)"
    )
    assert "48 of 50 datagrams of others came back within 0.5 s" in finding.evidence
    assert caplog.text.count("seems to come back to eth0 from 198.18.0.9 (02:00:00:00:00:09)") == 1
    await scene.pass_time(20, 10, OVER)
    assert scene.watch.loops() == ()
    assert caplog.text.count("nothing comes back any more: the loop over another machine is over") == 1
    for _ in range(2):
        await scene.pass_time(0.6, 1000, LOOP)
        assert (scene.sources(), len(scene.watch.loops())) == (["198.18.0.9"], 1)  # the second time at once, too
        assert caplog.text.count("seems to come back") == 2
        await scene.pass_time(20, 10, OVER)


@pytest.mark.slow
async def test_a_loop_that_comes_and_goes_is_no_flood(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        await scene.pass_time(7, 1000, LOOP)
        await scene.pass_time(8, 1000, OVER)
    assert 4 <= len(caplog.records) <= 20


@pytest.mark.slow
async def test_a_loop_in_which_nothing_flows_is_forgotten(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(3, 1000, LOOP)
    assert await scene.pass_time(150) == 0
    assert scene.watch.loops()
    await scene.pass_time(40)
    assert scene.watch.loops() == ()
    assert "was not seen for 180 s; whether it is over is not known" in caplog.text


async def test_a_rule_that_is_gone_is_in_no_loop(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    await scene.pass_time(3, 1000, LOOP)
    await scene.stats.rules_placed((), ("tv",))
    await scene.pass_time(2)
    assert scene.watch.loops() == ()


@pytest.mark.slow
async def test_looks_that_fail(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What the system refuses is told once; a bug ends the watch, not mcrd."""
    assert await scene.pass_time(300, 1000, SystemFault("Cannot look", errno.EPERM)) in {4, 5, 6}
    assert [each.levelname for each in caplog.records] == ["INFO"]
    caplog.clear()
    await scene.stats.rules_placed((attrs.evolve(PLACED, tag=9),), ("tv",))
    scene.shared.rules[PLACED.slot].tag = 9
    assert await scene.pass_time(20, 1000, ValueError("a bug")) == 1
    assert [each.levelname for each in caplog.records] == ["CRITICAL"]
    assert "a bug" in caplog.text


def echoed(returned: int, own: int = 0, sent: int = 50, *, shared: bool = False) -> Verdict:
    """A look at what is damped, or a proof."""
    return Verdict(echoes=(Echo(RETURNER, returned, own, sent, shared),), seconds=0.5)


def proof(returned: int, own: int = 0, *, shared: bool = False) -> Verdict:
    return attrs.evolve(LOOP, echoes=echoed(returned, own, shared=shared).echoes)


async def test_who_returns_is_refused_while_looks_see_it(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Soon after the loop began; looks go on, often at first. What it was is told."""
    await scene.pass_time(1.5, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]
    assert scene.actors.refused[0].interface == "eth0"
    assert await scene.pass_time(8, 100, echoed(48), returned=100) in {3, 4, 5}
    assert 4 <= await scene.pass_time(60, 100, returned=100) <= 7
    (loop,) = scene.watch.loops()
    assert loop.refused == (ip_address("198.18.0.9"),)
    assert loop.dropped == 6800
    (finding,) = with_loops([], [loop], {})
    assert finding.what.endswith("a loop over another machine, and the rule takes nothing from 198.18.0.9")
    assert finding.evidence.endswith("mcrctl stats: returned, 6,800 of this rule")
    assert finding.remedy
    assert "a rule with --input-source 198.18.0.9 does" in finding.remedy
    assert "rule tv: what 198.18.0.9 (02:00:00:00:00:09) sends is refused" in caplog.text
    await scene.pass_time(11, 100, attrs.evolve(echoed(0), is_over=True))
    assert scene.sources() == []
    assert "is taken again: it returns nothing any more; refused: 6,800 datagrams" in caplog.text


async def test_what_ended_early_ends_no_refusal(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where something was lost, what others said may not have come back yet. What is heard speaks for somebody."""
    await scene.pass_time(1.5, 1000, proof(48))
    await scene.pass_time(20, 100, attrs.evolve(echoed(0), is_whole=False), returned=100)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, attrs.evolve(echoed(20, own=10), is_whole=False), returned=100)
    assert scene.sources() == []
    assert "it sends what is its own" in caplog.text


async def test_who_is_not_refused(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Who says again what another rule's source says, sends also what is its own, or shares its address."""
    beside = attrs.evolve(proof(0), returners=(attrs.evolve(LOOP.returners[0], is_beside=True),))
    for verdict, why in (
        (beside, "it is only seen to return what sources of other rules send"),
        (proof(20, own=10), "it also sends what is its own"),
        (proof(48, shared=True), "others send from this address, too"),
    ):
        await scene.pass_time(12, 1000, verdict)
        (loop,) = scene.watch.loops()
        assert (scene.sources(), loop.why_not) == ([], why)
        assert with_loops([], [loop], {})[0].what.endswith(f"; it goes on, as {why}")
    assert caplog.text.count("is not refused: it is only seen to return what sources of other rules send") == 1
    await scene.pass_time(11, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(11, 100, beside, returned=100)
    assert scene.sources() == []


async def test_who_is_not_refused_yet_is_looked_at_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock
) -> None:
    """One look may take for its own what was on its way."""
    await scene.pass_time(0.6, 1000, proof(20, own=10))
    assert (scene.sources(), len(scene.watch.loops())) == ([], 1)
    await scene.pass_time(0.6, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]


async def test_of_whom_little_is_known_is_looked_at_again_soon(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not refused before; the log tells of it only if there is another reason."""
    little = attrs.evolve(LOOP, echoes=(Echo(RETURNER, 4, 0, 5, is_little=True),))
    await scene.pass_time(0.6, 1000, little)
    (loop,) = scene.watch.loops()
    assert (scene.sources(), loop.why_not.startswith("too little was seen")) == ([], True)
    assert "is not refused" not in caplog.text
    await scene.pass_time(0.6, 1000, proof(20, own=10))
    assert "is not refused: it also sends what is its own" in caplog.text
    for verdict in (little, proof(20, own=10)):
        await scene.pass_time(11, 1000, verdict)
        assert scene.watch.loops()[0].why_not == "it also sends what is its own"
    assert caplog.text.count("is not refused: ") == 1
    await scene.pass_time(11, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]


async def test_who_goes_on_alone_is_a_source(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused no longer at once, and not again for long."""
    await scene.pass_time(1.5, 1000, proof(48))
    await scene.pass_time(5, 100, echoed(48), returned=100)
    await scene.pass_time(1, 0, returned=0)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(1, 100, returned=100)
    await scene.pass_time(0.6, 0, returned=200)
    assert scene.sources() == []
    assert "it goes on while others are silent; it is not refused again for 10 minutes; refused: 6" in caplog.text
    await scene.pass_time(20, 1000, proof(48))
    autojump_clock.jump(460)  # in which nothing flows
    await scene.pass_time(20, 1000)
    assert scene.sources() == []
    assert scene.watch.loops()[0].why_not == "it was a source of its own when it was refused"
    autojump_clock.jump(100)
    await scene.pass_time(20, 1000)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(1, 0, returned=1000)
    assert "it is not refused again for 20 minutes" in caplog.text


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (echoed(20, own=8), "it sends what is its own; it is not refused again for 10 minutes"),
        (echoed(48, shared=True), "others send from this address, too; it is not refused again for 10 minutes"),
        (echoed(0), "it returns nothing any more"),
        (UNSURE, "it was not seen to return anything for 60 s"),
        pytest.param(
            SystemFault("Cannot look", errno.EPERM),
            "it was not seen to return anything for 60 s",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["own", "shared", "over", "lost", "failing"],
)
async def test_a_refusal_ends(
    scene: Scene,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    verdict: Verdict | Exception,
    why: str,
) -> None:
    await scene.pass_time(1.5, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]
    while scene.sources() and trio.current_time() < 66:
        await scene.pass_time(5, 100, verdict, returned=100)
    assert scene.sources() == []
    assert f"is taken again: {why}; refused: " in caplog.text


async def test_a_refusal_ends_with_its_rule_and_with_the_watch(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await scene.pass_time(1.5, 1000, proof(48))
    changed = attrs.evolve(PLACED, rule=attrs.evolve(RULE, name="other"))
    await scene.stats.rules_placed((changed,), ())
    await scene.pass_time(1)
    assert scene.sources() == []
    assert "the rule was changed" in caplog.text
    await scene.pass_time(12, 1000)
    assert scene.sources() == ["198.18.0.9"]
    await scene.pass_time(12, 1000, ValueError("a bug"))
    assert scene.sources() == []


async def test_a_refusal_ends_where_another_rule_names_the_source(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is proven anew when that rule is gone. After any other change workers are told again at once."""
    asked = attrs.evolve(RULE.input, sources=(ip_address("198.18.0.9"),))
    naming = attrs.evolve(NAMED, rule=attrs.evolve(NAMED.rule, input=asked), tag=10)
    await scene.pass_time(1.5, 1000, proof(48))
    scene.actors.refused = ()
    await scene.stats.rules_placed((attrs.evolve(NAMED, tag=9),), ())
    await scene.pass_time(0.6, 1000)
    assert scene.sources() == ["198.18.0.9"]
    await scene.stats.rules_placed((naming,), ())
    await scene.pass_time(20, 1000)
    (loop,) = scene.watch.loops()
    assert (scene.sources(), loop.refused, loop.why_not) == ([], (), "another rule names it as a source")
    assert "is taken again: another rule names it as a source; refused: " in caplog.text
    await scene.stats.rules_placed((), (naming.rule.rule_id,))
    await scene.pass_time(0.6, 1000, UNSURE)
    assert scene.sources() == []
    await scene.pass_time(12, 1000, proof(48))
    assert scene.sources() == ["198.18.0.9"]


@pytest.mark.slow
async def test_what_the_kernel_path_cannot_be_told_is_tried_again(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Soon, as it may pass; then a minute later, however often that was so: it proves nothing of who is refused."""
    fault, seconds = SystemFault("Cannot filter by rules", errno.ENOMEM), 4
    why = f"it cannot be refused: {fault}"
    for _ in range(3):
        scene.actors.fault = fault
        await scene.pass_time(seconds, 1000, proof(48))
        assert (why in caplog.text) == (seconds > 4)
        assert scene.watch.loops()[0].why_not == (why if seconds > 4 else "")
        scene.actors.fault, seconds = None, 30
        await scene.pass_time(60, 1000)
        assert scene.sources() == ["198.18.0.9"]
    assert caplog.text.count(f"is taken again: {why}; that is tried again in 60 s; refused: ") == 2


async def test_who_is_refused_already_stays_so_while_the_kernel_path_cannot_be_told(
    scene: Scene, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as workers remember."""
    await scene.pass_time(1.5, 1000, proof(48))
    scene.actors.fault = SystemFault("Cannot filter by rules", errno.ENOMEM)
    await scene.pass_time(6, 100, echoed(48), returned=100)
    assert scene.watch.loops()[0].refused == (ip_address("198.18.0.9"),)
    await scene.pass_time(8, 100, returned=100)
    assert scene.watch.loops()[0].refused == ()
    assert "it cannot be refused: Cannot filter by rules" in caplog.text


async def test_who_goes_on_beside_a_named_source(scene: Scene, autojump_clock: trio.testing.MockClock) -> None:
    """Though that one lives: it may be what is said again, and the rule takes that from nobody else."""
    await scene.pass_time(1.5, 1000, proof(48))
    scene.shared.rules[NAMED.slot].tag, scene.matching = NAMED.tag, NAMED
    await scene.pass_time(1.5, 100, echoed(48), returned=100)
    assert scene.sources() == []
