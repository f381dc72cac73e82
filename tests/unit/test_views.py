"""What is kept of the rules that are listed."""

import gc
import weakref
from ipaddress import ip_address
from typing import Any

import attrs
import pytest

from mcr.model.flow import Input
from mcr.model.rule import Output, Rule
from mcr.rules import views
from mcr.rules.catalog import Entry
from mcr.rules.views import Views

OUTPUT = Output(ip_address("239.9.9.1"), 6000, "eth1")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of rules of which a view was made."""
    ids: list[str] = []

    def view(entry: Entry, _conditions: object) -> Any:
        ids.append(entry.rule.rule_id)
        return SimpleView(path_reason="")

    monkeypatch.setattr(views, "_view", view)
    return ids


@attrs.frozen
class SimpleView:
    path_reason: str


class Conditions:
    """Under which no rule lacks anything."""

    acknowledged = 1
    paths: Any

    def __init__(self) -> None:
        self.paths = self

    def concern(self, _rule: Rule) -> bool:
        return False

    def why_worker(self, _rule: Rule) -> str:
        return ""


def entry(name: str) -> Entry:
    return Entry(Rule(name, Input("eth0", ip_address("239.1.1.1"), 5000), (OUTPUT,)), 1, ())


def test_what_a_thread_keeps_of_a_rule_that_is_gone_ends_with_the_next_list(made: list[str]) -> None:
    conditions: Any = Conditions()
    shown, there, gone = Views(), entry("there"), entry("gone")
    witness = weakref.ref(gone)
    shown.forget(["gone"])
    shown.make((there, gone), conditions)  # a thread had the entries from before
    shown.keep((there, gone))
    del gone
    shown.make((there,), conditions)
    shown.keep((there,))
    gc.collect()
    assert witness() is None
    assert made == ["there", "gone"]
