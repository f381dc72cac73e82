"""The rules of run time that another mcrd has handed over, beside those that are saved where it did not save them."""

from collections.abc import Iterator, Sequence

from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.rules.file_rules import identity, shared

log = get_logger(Facility.RULES)


def add_handed_over(saved: Sequence[Rule], handed_over: Sequence[Rule]) -> Iterator[Rule]:
    """Those of another mcrd that can be had beside the saved ones; of each other one the log says why not."""
    holders = {part: rule for rule in saved for part in identity(rule)}
    for rule in handed_over:
        holder = next((holders[part] for part in identity(rule) if part in holders), None)
        if holder is None:
            yield rule
        elif holder != rule:
            log.warning(
                "rule %s of the mcrd before this one (%s to %s) is not used: rule %s is saved, and has the same %s",
                *(rule.rule_id, rule.input, ", ".join(map(str, rule.outputs)), holder.rule_id, shared(rule, holder)),
            )
