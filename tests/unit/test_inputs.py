"""Input interfaces as rules take them into use: in which order their filters are told."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from mcr.config.settings import Settings
from mcr.errors import SystemFault
from mcr.model.flow import Flow, Input
from mcr.model.log import LogLevels
from mcr.net.filter.classic import ClassicFilters
from mcr.net.filter.tap import StreamTap
from mcr.net.interfaces import Interface
from mcr.process.descriptor_store import DescriptorStore
from mcr.relay.inputs import InputInterfaces

GROUP = IPv4Address("239.1.1.1")
SOURCES = [Input("in0", GROUP, 5000), Input("in1", GROUP, 5000), Input("in0", GROUP, 5001)]
TAKEN = [{Flow(GROUP, 5000), Flow(GROUP, 5001)}, {Flow(GROUP, 5000)}]
FOUND = {name: Interface(name, 5 + number, 1500, None) for number, name in enumerate(("in0", "in1"))}


class Filters(ClassicFilters):
    """Notes what is admitted as a capture is opened; one of them may fail."""

    def __init__(self) -> None:
        super().__init__(DescriptorStore())
        self.opened: list[set[Flow]] = []
        self.fails_at = -1

    def open(self, capture: int, *_: object, **__: object) -> Any:
        self.opened.append(set(self._wanted[capture]))
        if capture == self.fails_at:
            raise SystemFault("no memory", 12)
        return SimpleNamespace(close=lambda: None)


@pytest.fixture
def filters() -> Filters:
    return Filters()


@pytest.fixture
def inputs(filters: Filters, monkeypatch: pytest.MonkeyPatch) -> Iterator[InputInterfaces]:
    def open_captures(interfaces: Sequence[Interface], *_: object) -> dict[str, Any]:
        return {each.name: SimpleNamespace(sockets=(), watched=(), offloads=True) for each in interfaces}

    monkeypatch.setattr("mcr.relay.inputs.open_filters", lambda *_, **__: filters)
    monkeypatch.setattr("mcr.relay.inputs.open_captures", open_captures)
    monkeypatch.setattr("mcr.relay.inputs.find_anew", lambda interface: interface)
    with StreamTap() as tap:
        inputs = InputInterfaces(Settings("", 1, LogLevels()), DescriptorStore(), {}, None, tap)
        yield inputs
        inputs.close()


def test_a_filter_lets_nothing_in_before_it_knows_what_rules_take(inputs: InputInterfaces, filters: Filters) -> None:
    """What came meanwhile would count as packets that no rule takes, at each start under traffic."""
    with ExitStack() as undo:
        captures = inputs.open(SOURCES, FOUND, undo)
        assert filters.opened == TAKEN
        undo.pop_all()
    filters.opened.clear()
    assert len(inputs._reopen([captures["in0"], captures["in1"]], SOURCES)) == 2
    assert filters.opened == TAKEN


def test_what_was_admitted_for_a_capture_that_is_not_opened_is_forgotten(
    inputs: InputInterfaces, filters: Filters
) -> None:
    filters.fails_at = 1
    with pytest.raises(SystemFault), ExitStack() as undo:
        inputs.open(SOURCES, FOUND, undo)
    assert filters.opened == TAKEN
    assert {slot: flows for slot, flows in filters._wanted.items() if flows} == {}
