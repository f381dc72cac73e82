"""What differs between two sets of rules: a difference of values, not of text."""

from collections.abc import Iterable
from typing import Any

import attrs

from mcr.config.writing import table_of
from mcr.model.rule import Rule


@attrs.frozen
class RuleDifference:
    """A rule that is in one of the sets only, or other than in the other one.

    Attributes:
        change: ``added``, ``removed`` or ``changed``.
        old: None: it is not there.
        new: the same.
    """

    rule_id: str
    change: str
    old: Rule | None
    new: Rule | None

    @property
    def json(self) -> dict[str, Any]:
        """As clients see it: rules as tables of a file. It takes a while for thousands, so not before they are used."""
        before, after = (each and table_of(each) for each in (self.old, self.new))
        return {"rule_id": self.rule_id, "change": self.change, "before": before, "after": after}


@attrs.frozen
class RunTimeDifference:
    """What becomes of a rule that was added at run time when files say something else.

    Attributes:
        change: ``displaced``: it is not used any more, in favour of a file's; ``moved``: a file has the same;
            ``restored``: it is used again, as no file has its like any more.
        rival: id of the file's rule that it gives way to; None: it is used again.
    """

    rule: Rule
    change: str
    rival: str | None = None

    @property
    def json(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "rule_id": self.rule.rule_id,
            "change": self.change,
            "rival": self.rival,
            "rule": table_of(self.rule),
        }


def difference(before: Iterable[Rule], after: Iterable[Rule]) -> tuple[RuleDifference, ...]:
    """What has to become of the rules before to have those after. Rules are the same if their ids are."""
    old, new = ({rule.rule_id: rule for rule in rules} for rules in (before, after))
    kinds = {(True, False): "removed", (False, True): "added", (True, True): "changed"}
    return tuple(
        RuleDifference(rule_id, kinds[rule_id in old, rule_id in new], old.get(rule_id), new.get(rule_id))
        for rule_id in {**old, **new}
        if old.get(rule_id) != new.get(rule_id)
    )
