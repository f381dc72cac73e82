"""Rules as a configuration file has them, in one form: the same rules give the same bytes."""

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from mcr.config.output_text import options_text
from mcr.model.health import Health
from mcr.model.rule import Output, Rule, automatic_rule_id
from mcr.text.addresses import ports_text


def table_of(rule: Rule) -> dict[str, Any]:
    """A rule's table. It has no id where that is the automatic one."""
    source = rule.input
    table: dict[str, Any] = {} if rule.name is None else {"name": rule.name}
    if rule.rule_id != automatic_rule_id(source):
        table["rule_id"] = rule.rule_id
    ports = source.port if source.last_port is None else ports_text(source.port, source.last_port)
    table["input"] = {"interface": source.interface, "group": source.named_groups, "port": ports}
    if source.vlan is not None:
        table["input"]["vlan"] = source.vlan
    if source.sources:
        table["input"]["sources"] = [*map(str, source.sources)]
    table["outputs"] = [*map(output_text, rule.outputs)]
    if rule.health is not Health.NONE:
        table["health"] = str(rule.health)
    return table


def output_text(output: Output) -> str:
    """One as an operator writes it, with its options."""
    return f"{output.where}:{output.interface}{options_text(partial(getattr, output))}"


def in_order(rules: Iterable[Rule]) -> list[Rule]:
    """By their inputs: the order in which they were added is another after a restart."""
    return sorted(rules, key=_order)


def _order(rule: Rule) -> tuple[object, ...]:
    source = rule.input
    where = source.interface, source.vlan or 0, int(source.group), source.port, tuple(map(int, source.sources))
    return *where, source.prefix or 0, source.last_port or 0


def toml_of(rules: Iterable[Rule]) -> str:
    """The text of a file with these rules, in their order."""
    return "\n".join(map(toml_of_table, map(table_of, rules)))


def toml_of_table(table: dict[str, Any]) -> str:
    """The text of one rule, of its table."""
    labels = [f"{key} = {_quoted(table[key])}" for key in ("name", "rule_id") if key in table]
    source = table["input"]
    port = _quoted(source["port"]) if isinstance(source["port"], str) else source["port"]
    where = f"interface = {_quoted(source['interface'])}, group = {_quoted(source['group'])}, port = {port}"
    where += f", vlan = {source['vlan']}" if "vlan" in source else ""
    where += f", sources = [{', '.join(map(_quoted, source['sources']))}]" if "sources" in source else ""
    outputs = [*map(_quoted, table["outputs"])]
    listed = f"[{outputs[0]}]" if len(outputs) == 1 else "\n".join(["[", *(f"    {each}," for each in outputs), "]"])
    choices = [f"{key} = {_quoted(table[key])}" for key in ("health",) if key in table]
    return "\n".join(["[[rule]]", *labels, f"input = {{ {where} }}", f"outputs = {listed}", *choices, ""])


def _quoted(text: str) -> str:
    """A basic string of TOML; one of JSON is the same for text that is printable, as all of a rule is."""
    return json.dumps(text, ensure_ascii=False)
