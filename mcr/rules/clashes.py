"""What an operator is told of a rule whose input another one takes. Pure."""

import shlex

from mcr.errors import RuleExists
from mcr.model.flow import Claim
from mcr.model.rule import Rule


def same_input(there: Rule, rule: Rule) -> RuleExists:
    """Of a rule with the input of one that is there."""
    named = f"--rule-id {shlex.quote(there.rule_id)}"
    hints = [
        f"remove it first: mcrctl remove {named}",
        f"or change its outputs: mcrctl change {named} --add-outputs G:P:IF",
    ]
    if rule.name not in {None, there.name} and {*rule.outputs} == {*there.outputs}:
        hints.append(f"or its name: mcrctl change {named} --new-name {shlex.quote(rule.name or '')}")
    return RuleExists(f"Rule already exists: {there.label} takes {there.input}", *hints)


def overlap(there: Rule, taken: Claim) -> RuleExists:
    """Of inputs that share a flow and are not the same: other outputs would not help."""
    parts = [*(["groups or ports"] if there.input.is_range else []), *(["sources"] if there.input.sources else [])]
    return RuleExists(
        f"Rule already exists: {there.label} takes {taken}",
        f"choose {' or '.join(parts)} that it does not take: it takes {there.input}",
        f"or remove it first: mcrctl remove --rule-id {shlex.quote(there.rule_id)}",
    )
