"""What the log tells of changes of the rules."""

from collections.abc import Sequence

from mcr.config.writing import output_text
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.rules.drafts import Draft
from mcr.rules.file_rules import FileRules

log = get_logger(Facility.RULES)

_NAMED = 5  # rules that are named one by one


def log_draft(draft: Draft, by: str) -> None:
    """Tell of a draft that was carried out, and who asked for it."""
    _log_rules("added", draft.added, by)
    for before, now in zip(draft.former, draft.changed, strict=False):
        log.info("rule %s changed: %s%s", now.label, _describe_change(before, now), by, **fields_of(now))
    _log_rules("removed", (*draft.removed, *draft.aside), by)


def some_of(rule_ids: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    more = f" and {len(rule_ids) - _NAMED:,} more" if len(rule_ids) > _NAMED else ""
    return ", ".join(rule_ids[:_NAMED]) + more


def _log_rules(what: str, rules: Sequence[Rule], by: str) -> None:
    if len(rules) > 1:
        these = some_of([rule.label for rule in rules])
        log.info("%d rules %s together: %s%s", len(rules), what, these, by, rules=len(rules))
        return
    for rule in rules:
        sends_to = f" to {', '.join(map(output_text, rule.outputs))}" if what == "added" else ""
        log.info("rule %s %s: %s%s%s", rule.label, what, rule.input, sends_to, by, **fields_of(rule))


def fields_of(rule: Rule) -> dict[str, object]:
    """What a line about a rule has for programs."""
    return {"rule": rule.rule_id, "name": rule.name}


def _describe_change(before: Rule, now: Rule) -> str:
    """What a change came to, in words."""
    had = {each.destination: each for each in before.outputs}
    has = {each.destination: each for each in now.outputs}
    said = {
        "added": [each for each in now.outputs if each.destination not in had],
        "removed": [each for each in before.outputs if each.destination not in has],
        "with other options": [each for each in now.outputs if had.get(each.destination, each) != each],
    }
    words = [f"{what}: {', '.join(map(output_text, outputs))}" for what, outputs in said.items() if outputs]
    renamed = [] if before.name == now.name else [f"named {now.name!r}"]
    watched = [] if before.health is now.health else [f"health of its stream: {now.health}"]
    return "; ".join([*renamed, *words, *watched]) or "its outputs in another order"


def log_aside(rules: Sequence[Rule], files: FileRules, origin: str) -> None:
    """Tell of rules that give way to those of files: the first ones each with both places."""
    for rule in rules[:_NAMED]:
        if why := files.why_aside(rule):
            log.warning("rule %s %s, but is not used: %s", rule.label, origin, why, **fields_of(rule))
    if len(rules) > _NAMED:
        log.warning("%d more rules give way to those of files", len(rules) - _NAMED)
