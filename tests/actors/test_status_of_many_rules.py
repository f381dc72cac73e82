"""The status page of thousands of rules keeps nobody waiting."""

import gc
import threading

import pytest

from mcr.metrics import pages as pages_of
from mcr.metrics.pages import Pages
from mcr.metrics.status import Status
from mcr.model.rule import RuleState
from metrics_clients import Actors, view


async def test_status_of_many_rules_is_put_together_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 rules take 30 ms, for which others would wait."""
    threads: list[threading.Thread] = []

    def show(_: Status) -> str:
        threads.append(threading.current_thread())
        assert not gc.isenabled(), "counters would be looked at in vain"
        return "content"

    monkeypatch.setattr(pages_of, "content", show)
    actors = Actors()
    actors.gate.set()
    for rules in (1, 201):
        actors.rules = tuple(view(RuleState.ACTIVE) for _ in range(rules))
        await Pages(actors, actors, actors).get("/", "")
    assert [each is threading.main_thread() for each in threads] == [True, False]
    assert gc.isenabled()
