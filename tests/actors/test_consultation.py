"""Looking into a relay never stops it."""

import gc
import socket
import threading
from ipaddress import IPv4Address
from typing import Any

import attrs
import pytest
import trio

from mcr.diagnosis import consultation, why
from mcr.diagnosis.consultation import Consultation
from mcr.diagnosis.doctor import Relay
from mcr.diagnosis.matching import matched
from mcr.diagnosis.present import present_view
from mcr.diagnosis.why import Walk
from mcr.errors import LimitReached, McrError, RuleNotFound
from mcr.model.flow import Input
from mcr.model.rule import Output, Rule, RuleState, RuleView
from mcr.model.saving import Saving
from mcr.model.stats import EgressStats, IngressStats, RuleStats, Stats
from mcr.rules.conditions import Attachment, Conditions, Standing, view_of
from mcr.tap.sighting import Look, Sighting


class Actors:
    """Every actor that is asked; they know nothing."""

    async def list(self) -> tuple[()]:
        return ()

    async def describe(self) -> tuple[()]:
        return ()

    async def standing(self) -> Standing:
        return Standing()

    async def yielding(self) -> tuple[()]:
        return ()

    def findings(self) -> tuple[()]:
        return ()

    def told(self) -> tuple[()]:
        return ()

    async def idle(self) -> dict[str, float]:
        return {}

    async def read(self) -> Stats:
        return Stats(IngressStats(), EgressStats())


def consult() -> Consultation:
    actors: Any = Actors()
    return Consultation(actors, actors, actors, actors, actors, actors, actors, Saving)


async def test_a_bug_in_an_examination_is_an_error_of_the_request_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def examine(*_: object) -> None:
        raise KeyError("ifname")

    monkeypatch.setattr(consultation, "examine", examine)
    with pytest.raises(McrError, match=r"The examination failed: KeyError\('ifname'\)"):
        await consult().doctor()
    assert "Traceback" in caplog.text


async def test_counters_of_rules_are_freed_whoever_still_has_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyroute2 leaves circles of frames, in which they would wait to be found."""
    kept: list[Relay] = []

    class Counted(Actors):
        async def read(self) -> Stats:
            return Stats(IngressStats(), EgressStats(), (RuleStats("tv", None, 50, 0, 0, 0, 0.0, 0.0),) * 1000)

    def examine(_: object, relay: Relay) -> tuple[()]:
        assert len(relay.stats.rules) == 1000
        assert not gc.isenabled(), "they would be looked at in vain"
        kept.append(relay)
        return ()

    monkeypatch.setattr(consultation, "examine", examine)
    actors: Any = Counted()
    assert await Consultation(actors, actors, actors, actors, actors, actors, actors, Saving).doctor() == ()
    assert [*kept[0].stats.rules] == []
    assert gc.isenabled()


async def test_what_an_examination_has_to_say_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(*_: object) -> None:
        raise LimitReached("too much", "later")

    monkeypatch.setattr(consultation, "examine", examine)
    with pytest.raises(LimitReached, match="too much"):
        await consult().doctor()


async def test_a_rule_that_is_not_there_is_told() -> None:
    with pytest.raises(RuleNotFound, match="No rule has the id or name 'x'"):
        await consult().why("x")


async def test_examinations_wait_for_each_other_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A few at a time, or they would take the threads that healing and new rules need."""
    monkeypatch.setattr(consultation, "_EXAMINATIONS", 1)
    started, release = threading.Event(), threading.Event()

    def examine(*_: object) -> tuple[()]:
        started.set()
        release.wait()
        return ()

    monkeypatch.setattr(consultation, "examine", examine)
    doctor = consult().doctor
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doctor)
        await trio.to_thread.run_sync(started.wait)
        with pytest.raises(LimitReached, match="mcrd is busy with 1 such requests"):
            await doctor()
        release.set()


async def test_many_rules_of_a_renamed_interface_are_put_into_words_beside_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixteen thousand take a quarter of a second."""
    output = Output(IPv4Address("239.9.9.9"), 6000, "eth1")
    rules = [
        Rule(name, Input("former", IPv4Address("239.1.1.1"), port), (output,))
        for port, name in enumerate(("this", "other", "another"), 5000)
    ]
    views = tuple(view_of(rule, 1, Conditions(1)) for rule in rules)
    here = {"former": Attachment("former", socket.if_nametoindex("lo"))}
    present = present_view
    seen: dict[str, bool] = {}

    def note(view: RuleView, names: dict[str, str]) -> RuleView:
        seen[view.rule_id] = threading.current_thread() is threading.main_thread()
        return present(view, names)

    async def go(walk: Walk) -> tuple[Any, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(each.input.interface for each in walk.others)

    @attrs.frozen
    class Renamed(Actors):
        async def list(self) -> Any:
            return views

        async def standing(self) -> Standing:
            return Standing(1, here)

    monkeypatch.setattr(consultation, "present_view", note)
    monkeypatch.setattr(Walk, "go", go)
    actors: Any = Renamed()
    answer: Any = await Consultation(actors, actors, actors, actors, actors, actors, actors, Saving).why("this")
    assert answer == ("lo", "lo")
    assert seen == {"this": True, "other": False, "another": False}


class Counting:
    """Statistics in which the rule has matched nothing until they are read so many times."""

    def __init__(self, reads: int) -> None:
        self.reads = reads

    async def read(self, rule_id: str) -> Stats:
        assert rule_id == "tv"  # there may be thousands of others
        self.reads -= 1
        return Stats(IngressStats(), EgressStats(), (RuleStats("tv", None, 50 + (self.reads <= 0), 0, 0, 0, 0.0, 0.0),))


@pytest.mark.parametrize(("reads", "grown"), [(25, 1), (10_000, 0)])
async def test_a_frame_that_is_counted_late_is_waited_for_and_others_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, reads: int, grown: int
) -> None:
    source, counting = Input("in0", IPv4Address("239.1.1.1"), 5000), Counting(reads)
    rule = RuleView("tv", None, source, (), RuleState.ACTIVE)
    one = Look(0.034, {Sighting.of(source): 1}, {}, 188)
    monkeypatch.setattr(why, "look_at_wire", lambda *_: one)
    actor: Any = counting
    walk = why.Walk(rule, (), (), actor, actor)
    before = Stats(IngressStats(), EgressStats(), (RuleStats("tv", None, 50, 0, 0, 0, 0.0, 0.0),))
    look, after = await walk._count(one, before, 11)
    assert matched(rule, after) == 50 + grown
    assert look.frames[Sighting.of(source)] > 3
