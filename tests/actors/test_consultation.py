"""Looking into a relay never stops it."""

import threading
from typing import Any

import pytest
import trio

from mcr.conditions import Standing
from mcr.diagnosis import consultation
from mcr.diagnosis.consultation import Consultation
from mcr.errors import LimitReached, McrError, RuleNotFound


class Actors:
    """Every actor that is asked; they know nothing."""

    async def list(self) -> tuple[()]:
        return ()

    async def describe(self) -> tuple[()]:
        return ()

    async def standing(self) -> Standing:
        return Standing()

    async def idle(self) -> dict[str, float]:
        return {}

    async def read(self) -> None:
        return None


def consult() -> Consultation:
    actors: Any = Actors()
    return Consultation(actors, actors, actors, actors, actors)


async def test_a_bug_in_an_examination_is_an_error_of_the_request_and_logged(monkeypatch, caplog):
    def examine(*_: object) -> None:
        raise KeyError("ifname")

    monkeypatch.setattr(consultation, "examine", examine)
    with pytest.raises(McrError, match=r"The examination failed: KeyError\('ifname'\)"):
        await consult().doctor()
    assert "Traceback" in caplog.text


async def test_what_an_examination_has_to_say_passes(monkeypatch):
    def examine(*_: object) -> None:
        raise LimitReached("too much", "later")

    monkeypatch.setattr(consultation, "examine", examine)
    with pytest.raises(LimitReached, match="too much"):
        await consult().doctor()


async def test_a_rule_that_is_not_there_is_told():
    with pytest.raises(RuleNotFound, match="No rule has the id or name 'x'"):
        await consult().why("x")


async def test_examinations_wait_for_each_other_and_not_for_ever(monkeypatch, autojump_clock):
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
