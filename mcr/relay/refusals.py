"""Flows that are refused though a rule for any source takes them: another machine returns there what others send.

The workers drop them (native/refused.h), and forget them by themselves unless they are told of them again. On the
kernel path the filter sends them to a worker, as it looks for a flow with its source first. Belongs to the relay.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress

import attrs

from mcr._native import lib
from mcr.errors import SystemFault
from mcr.model.flow import Claim, Flow, without_source
from mcr.model.loop import REFUSED_SECONDS
from mcr.model.rule import RuleChange
from mcr.net.filter.base import CaptureFilters
from mcr.net.patience import before_packets
from mcr.relay.captures import Capture
from mcr.relay.placement import PlacedRule
from mcr.relay.ranges import claims
from mcr.shm import records
from mcr.shm.records import Command

MAX_REFUSED: int = lib.MCR_MAX_REFUSED
"""Flows, at most."""


@attrs.frozen
class Refusal:
    """A flow that is to be refused.

    Attributes:
        interface: that it comes in by.
        flow: with its source.
        place: of its counter, below `MAX_REFUSED`.
    """

    interface: str
    flow: Flow
    place: int

    @property
    def claim(self) -> Claim:
        """What a rule would take that names its source."""
        return Claim(self.interface, self.flow)


class Refusals:
    """All of them."""

    def __init__(self, find: Callable[[str], Capture | None], filters: CaptureFilters | None) -> None:
        """Refuse nothing yet.

        Args:
            find: the capture of an interface, if it has one.
            filters: of the kernel path; None: workers get all that rules take.
        """
        self._find = find
        self._filters = filters
        self._held: Mapping[Refusal, Capture] = {}

    def change(self, wanted: Iterable[Refusal], rules: Collection[PlacedRule]) -> Command:
        """Refuse these and no others, but none that a rule names, or that no rule takes. What to tell the workers.

        Raises:
            SystemFault: nothing has changed.
        """
        held = {each: capture for each in wanted if (capture := self._find(each.interface))}
        new = {each for each, capture in held.items() if self._held.get(each) is not capture}
        wrong = new - _taken(new, rules)
        # This alone: the rules are looked through meanwhile as others want the processor.
        return before_packets(self._hold, {each: held[each] for each in held.keys() - wrong})

    def give_way(self, change: RuleChange, undo: ExitStack) -> tuple[Command, ...]:
        """Refuse no more what added rules take by name, or removed and changed ones have taken from any source."""
        if not self._held:
            return ()
        taking = [each for each in (*change.removed, *change.changed) if not each.input.sources]
        named, gone = {*claims(change.added)}, {*claims(taking)}
        held = {
            each: capture
            for each, capture in self._held.items()
            if self._is_there(each) and each.claim not in named and without_source(each.claim) not in gone
        }
        if len(held) == len(self._held):
            return ()
        undo.callback(self._restore, self._held)
        return (self._hold(held),)

    def _restore(self, before: Mapping[Refusal, Capture]) -> None:
        """Refuse again what has given way. Workers were not told that it had."""
        with suppress(SystemFault):  # the next change tries again; why this is undone matters more
            self._hold({each: capture for each, capture in before.items() if self._find(each.interface) is capture})

    def _hold(self, held: Mapping[Refusal, Capture]) -> Command:
        if self._filters:
            before = {_key(each) for each in self._held.items() if self._is_there(each[0])}
            now = {*map(_key, held.items())}  # without places: one flow may have had another before
            self._filters.change(now - before, before - now)
        self._held = held
        until = time.monotonic() + REFUSED_SECONDS
        return records.refused((each.flow, capture.slot, each.place, until) for each, capture in held.items())

    def _is_there(self, refusal: Refusal) -> bool:
        """Whether its capture is; with that, what the filter had of it would be gone."""
        return self._find(refusal.interface) is self._held[refusal]


def _key(held: tuple[Refusal, Capture]) -> tuple[int, Flow]:
    return held[1].slot, held[0].flow


def _taken(refusals: Collection[Refusal], rules: Iterable[PlacedRule]) -> set[Refusal]:
    """Those that a rule takes, and none by their source. Each rule is looked at once."""
    if not refusals:
        return set()
    from_any = {without_source(each.claim) for each in refusals}
    interfaces = {each.interface for each in refusals}
    named, taken = set[Claim](), set[Claim]()
    for each in rules:
        source = each.rule.input
        if source.sources and source.interface in interfaces:
            named |= {Claim(source.interface, flow) for flow in each.flows}
        elif len(source.claims) == 1:
            taken |= from_any.intersection(source.claims)
    return {each for each in refusals if each.claim not in named and without_source(each.claim) in taken}
