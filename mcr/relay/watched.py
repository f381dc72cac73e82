"""The rules whose streams' health is watched: what their captures' filters tell of them. Belongs to the relay."""

from collections.abc import Callable, Iterable

import attrs

from mcr.errors import describe_errno, errno_of
from mcr.logs.logger import get_logger
from mcr.model.flow import Flow
from mcr.model.health import Health
from mcr.model.log import Facility
from mcr.net.filter.base import CaptureFilters
from mcr.net.filter.tap import StreamTap
from mcr.relay.placement import PlacedRule

log = get_logger(Facility.NETWORK)


@attrs.frozen
class _Watched:
    slot: int
    health: Health
    capture: int
    flows: tuple[Flow, ...]


class WatchedStreams:
    """All of them, by the ids of their rules. That one can't be watched is no fault of its rule, which forwards."""

    def __init__(self, tap: StreamTap, filters: CaptureFilters, capture_of: Callable[[str], int]) -> None:
        """`capture_of`: the slot of a capture, by the name of its interface."""
        self._tap, self._filters, self._capture_of = tap, filters, capture_of
        self._watched: dict[str, _Watched] = {}

    def change(self, removed: Iterable[PlacedRule], rules: Iterable[PlacedRule]) -> None:
        """Rules that were removed, and others as they are now: watch the streams of those that ask for it."""
        for placed in removed:
            if placed.rule.rule_id in self._watched:
                self._end(placed.rule.rule_id)
        for placed in rules:
            rule = placed.rule
            before = self._watched.get(rule.rule_id)
            if rule.health is Health.NONE:
                if before:
                    self._end(rule.rule_id)
                continue
            capture = self._capture_of(rule.input.interface)
            now = _Watched(placed.slot, rule.health, capture, rule.input.flows)
            if now != before:
                self._watch(rule.rule_id, before, now)
        self.show()

    def move(self, old: int, now: int) -> None:
        """A capture was opened again, in another slot. Counts go on."""
        for rule_id, before in [*self._watched.items()]:  # of which some may be given up
            if before.capture == old:
                self._watch(rule_id, before, attrs.evolve(before, capture=now))
        self.show()

    def show(self) -> None:
        """Have filters tell of the streams. Where one could not be attached, nothing can be known of them."""
        failed = self._filters.show_streams()
        for rule_id, each in [*self._watched.items()]:
            if each.capture in failed:
                self._end(rule_id)
                self._refuse(rule_id, each, failed[each.capture])
        self._tap.rest()

    def _watch(self, rule_id: str, before: _Watched | None, now: _Watched) -> None:
        """Watch one. Counts go on where its interface was opened again, or its rule has changed otherwise."""
        if self._filters.untold:
            self._tap.refuse(now.slot, self._filters.untold)
            return
        try:
            if not before or (before.slot, before.health) != (now.slot, now.health):
                self._tap.begin(now.slot, now.health)
            for flow in now.flows:
                self._tap.tell(now.slot, now.capture, flow)
        except OSError as error:
            if before:
                self._end(rule_id)
            self._tell_no_more(now)  # of its flows, some may be told
            self._refuse(rule_id, now, describe_errno(errno_of(error)))
            return
        if before and before.capture != now.capture:  # its flows stay as long as it does
            self._tell_no_more(before)
        self._watched[rule_id] = now

    def _refuse(self, rule_id: str, now: _Watched, reason: str) -> None:
        log.warning("the health of rule %s cannot be watched: %s", rule_id, reason)
        self._tap.refuse(now.slot, reason)

    def _end(self, rule_id: str) -> None:
        gone = self._watched.pop(rule_id)
        self._tell_no_more(gone)
        self._tap.end(gone.slot)

    def _tell_no_more(self, gone: _Watched) -> None:
        for flow in gone.flows:
            self._tap.tell_no_more(gone.capture, flow)
