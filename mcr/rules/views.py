"""Rules as `mcrctl list` shows them, kept for as long as nothing changes: there may be 10,000."""

from collections.abc import Collection, Iterable

import attrs

from mcr.model.rule import Origin, RuleView
from mcr.rules.catalog import MANY, Entry
from mcr.rules.conditions import Conditions, view_of, view_of_unusable

_Views = tuple[RuleView, ...]


@attrs.frozen
class _Shown:
    """Views, and what they were made of."""

    entries: tuple[Entry, ...]
    conditions: Conditions
    views: _Views


class Views:
    """Makes views. Several threads may use it."""

    def __init__(self) -> None:
        self._well: dict[str, tuple[Entry, RuleView]] = {}  # of rules that lack nothing, by their ids
        self._last: _Shown | None = None

    def known(self, entries: tuple[Entry, ...], conditions: Conditions) -> _Views | None:
        """Those that were made last of many rules, if these are the same under the same conditions."""
        last = self._last
        return last.views if last and last.entries == entries and last.conditions == conditions else None

    def make(self, entries: tuple[Entry, ...], conditions: Conditions) -> _Views:
        """Those of some rules, or of all."""
        views = tuple(self._one(each, conditions) for each in entries)
        if len(entries) > MANY:
            self._last = _Shown(entries, conditions, views)
        return views

    def forget(self, rule_ids: Iterable[str]) -> None:
        """These rules are gone."""
        self._last = None
        for rule_id in rule_ids:
            self._well.pop(rule_id, None)

    def forget_all(self) -> None:
        """Any of them may be gone."""
        self._last = None
        self._well.clear()

    def keep(self, entries: Collection[Entry]) -> None:
        """These are all: others are gone, and a thread has made views of them since they were forgotten."""
        if len(self._well) > len(entries):
            for gone in self._well.keys() - {each.rule.rule_id for each in entries}:
                self._well.pop(gone, None)

    def _one(self, entry: Entry, conditions: Conditions) -> RuleView:
        if entry.fault or entry.generation > conditions.acknowledged or conditions.concern(entry.rule):
            return _view(entry, conditions)
        known, view = self._well.get(entry.rule.rule_id, (None, None))
        if known is not entry or view is None or view.path_reason != conditions.paths.why_worker(entry.rule):
            view = _view(entry, conditions)
            self._well[entry.rule.rule_id] = entry, view
        return view


def _view(entry: Entry, conditions: Conditions) -> RuleView:
    origin = Origin.FILE if entry.from_file else Origin.RUNTIME
    if entry.fault:
        return view_of_unusable(entry.rule, entry.fault, origin)
    return view_of(entry.rule, entry.generation, conditions, origin)
