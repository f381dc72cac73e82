"""Outputs that rules have no more. A rule's own sums keep what they sent: a counter never goes back."""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from mcr.relay.placement import LeavingOutput, OutputSlot, PlacedRule
from mcr.stats.readings import Former, Reading


class FormerOutputs:
    """Those of all rules, by the rules' tags."""

    def __init__(self) -> None:
        self._by_tag: Mapping[int, Former] = {}

    def all(self) -> Mapping[int, Former]:
        """Those of each rule that has lost some; what is returned never changes."""
        return self._by_tag

    def leave(self, before: PlacedRule, now: PlacedRule) -> None:
        """A rule has been changed. Workers may still count for what it lost."""
        lost: tuple[OutputSlot, ...] = tuple(each for each in before.outputs if each not in now.outputs)
        if lost:
            former = self._by_tag.get(now.tag, Former())
            self._by_tag = {**self._by_tag, now.tag: attrs.evolve(former, leaving=(*former.leaving, *lost))}

    def close(self, output: LeavingOutput, now: Reading) -> None:
        """Count one a last time."""
        former = self._by_tag.get(output.rule)
        if not former:  # its rule has been removed since
            return
        last = now.output(output.place)
        self._by_tag = {
            **self._by_tag,
            output.rule: Former(
                leaving=tuple(each for each in former.leaving if each != output.place),
                sent=former.sent + last.sent,
                errors=former.errors + last.errors,
                bytes=former.bytes + last.bytes,
            ),
        }

    def save(self, now: Reading) -> list[tuple[int, int, int, int]]:
        """The sums so far, by the rules' tags."""
        return [(tag, *self._sums(former, now)) for tag, former in self._by_tag.items()]

    def restore(self, saved: Iterable[Sequence[int]]) -> None:
        """Go on with the sums of another mcrd."""
        self._by_tag = {int(tag): Former((), int(sent), int(errors), int(size)) for tag, sent, errors, size in saved}

    @staticmethod
    def _sums(former: Former, now: Reading) -> tuple[int, int, int]:
        leaving = [now.output(each) for each in former.leaving]
        return (
            former.sent + sum(each.sent for each in leaving),
            former.errors + sum(each.errors for each in leaving),
            former.bytes + sum(each.bytes for each in leaving),
        )

    def forget(self, rule: PlacedRule) -> None:
        """Forget those of a rule that is removed."""
        if rule.tag in self._by_tag:
            self._by_tag = {tag: each for tag, each in self._by_tag.items() if tag != rule.tag}
