"""Losses that are over: counters only grow, so what was lost once would be advice for ever."""

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from mcr.model.finding import Finding, Verdict

RECENT_SECONDS: Final = 3600.0
"""For so long after a loss was first seen it is advice, or a fault."""

_LOSSES: Final = frozenset({"kernel_drops", "interface_drops", "log_dropped"})  # findings whose evidence has the count


@attrs.frozen
class Losses:
    """When each count was first seen."""

    _first_seen: dict[tuple[str, str], float] = attrs.field(factory=dict, init=False)

    def fade(self, findings: Iterable[Finding], now: float) -> Iterator[Finding]:
        """The findings, where losses that have not grown for long are no longer anything to do."""
        counted = {}
        for finding in findings:
            if finding.check not in _LOSSES or finding.verdict is Verdict.OK:
                yield finding
                continue
            key = finding.check, finding.evidence
            since = counted[key] = self._first_seen.get(key, now)
            if now - since < RECENT_SECONDS:
                yield finding
            else:
                what = f"{finding.what}; none for the last {(now - since) // 3600:.0f} h"
                yield attrs.evolve(finding, verdict=Verdict.OK, what=what, remedy="")
        self._first_seen.clear()
        self._first_seen.update(counted)
