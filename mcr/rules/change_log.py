"""What the log tells of changes of the rules."""

from collections.abc import Sequence

from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.rules.file_rules import FileRules

log = get_logger(Facility.RULES)

_NAMED = 5  # rules that are named one by one


def log_added(rules: Sequence[Rule]) -> None:
    """Tell of rules that were added together."""
    if not rules:
        return
    if len(rules) == 1:
        log.info("rule %s added: %s to %s", rules[0].rule_id, rules[0].input, ", ".join(map(str, rules[0].outputs)))
    else:
        log.info("%d rules added together", len(rules))


def log_removed(rules: Sequence[Rule]) -> None:
    """Tell of rules that were removed together."""
    if len(rules) == 1:
        log.info("rule %s removed: %s", rules[0].rule_id, rules[0].input)
    elif rules:
        log.info("%d rules removed together", len(rules))


def describe_change(before: Rule, now: Rule) -> str:
    """What a change came to, in words."""
    had = {each.destination: each for each in before.outputs}
    has = {each.destination: each for each in now.outputs}
    said = {
        "added": [each for each in now.outputs if each.destination not in had],
        "removed": [each for each in before.outputs if each.destination not in has],
        "with other options": [each for each in now.outputs if had.get(each.destination, each) != each],
    }
    words = [f"{what}: {', '.join(map(str, outputs))}" for what, outputs in said.items() if outputs]
    renamed = [] if before.name == now.name else [f"named {now.name!r}"]
    return "; ".join([*renamed, *words]) or "its outputs in another order"


def log_aside(rules: Sequence[Rule], files: FileRules, origin: str) -> None:
    """Tell of rules that give way to those of files: the first ones each with both places."""
    for rule in rules[:_NAMED]:
        if rival := files.rival(rule):
            log.warning(
                "rule %s %s, and is not used as long as the like of it, rule %s, stands in %s",
                *(rule.rule_id, origin, rival.rule.rule_id, rival.place),
            )
    if len(rules) > _NAMED:
        log.warning("%d more rules give way to those of files", len(rules) - _NAMED)
