"""The configuration of the Rust relay that MCR descends from: JSON5, as its `mcrctl config show` prints it.

An array is taken for its rules.
"""

from typing import Any, Final

from mcr.config.document import Path
from mcr.config.foreign.imported import Findings, Imported, read_text
from mcr.config.foreign.json5 import NotJson5, read_json5
from mcr.config.rule_table import FileFaults, read_rule
from mcr.config.writing import table_of
from mcr.errors import UsageError
from mcr.model.rule import Rule

_RULES: Final = "rules"
_MEANING: Final = {
    "pinning": "MCR's workers share all interfaces: see num_workers in [settings]",
    "multicast_ttl": "MCR sends to groups with TTL 1, unless an output says otherwise: write :ttl=N behind it",
    "pim": "MCR does not speak PIM",
    "igmp": "MCR is no IGMP querier",
    "msdp": "MCR does not speak MSDP",
    "control_plane": "MCR has nothing of the kind",
}
_NOTHING: Final[tuple[object, ...]] = (None, {}, [])
_UDP: Final = (None, "udp")
_DEFAULT_TTL: Final = (None, 1)


def read_rust_mcr(path: str) -> Imported:
    """Read a file.

    Raises:
        UsageError: it can't be read, or is none of the Rust relay.
    """
    try:
        document = read_json5(read_text(path), _RULES)
    except NotJson5 as error:
        raise UsageError(f"{path}:{error.fault.line}: not JSON5: {error.fault.message}") from None
    values = document.values
    if not values.keys() & {_RULES, *_MEANING}:
        keys = ", ".join((_RULES, *_MEANING))
        raise UsageError(f"{path} is no configuration of the Rust relay", f"it has keys such as {keys}")
    faults = FileFaults(path, document)
    _note_others(values, faults)
    findings = Findings("the Rust relay")
    rules = values.get(_RULES, [])
    if faults.has_type((_RULES,), rules, (list,), _RULES):
        taken: dict[object, int] = {}
        for index, each in enumerate(rules):
            line = document.line((_RULES, index))
            rule = _rule(each, (_RULES, index), faults)
            if rule is None:
                continue
            if clash := _clash(rule, line, taken):
                faults.add((_RULES, index), clash)
            else:
                findings.add(path, line, table_of(rule))
    findings.untranslated.extend(faults.found)
    return findings.result()


def _note_others(values: dict[str, Any], faults: FileFaults) -> None:
    for name, value in values.items():
        if name == _RULES or value in _NOTHING or (isinstance(value, dict) and value.get("enabled") is False):
            continue
        if name not in _MEANING:
            faults.add((name,), f"Unknown key {name!r}")
        elif name != "multicast_ttl" or value not in _DEFAULT_TTL:
            faults.add((name,), f"{name}: {_MEANING[name]}")


def _rule(value: object, path: Path, faults: FileFaults) -> Rule | None:
    """A rule; None if it can't be had, which is noted."""
    if not isinstance(value, dict):
        return read_rule(value, path, faults).rule
    table = {name: part for name, part in value.items() if part is not None}
    source = table.get("input")
    if isinstance(source, dict):
        protocol = source.get("protocol")
        if protocol not in _UDP:
            faults.add((*path, "input", "protocol"), f"protocol {protocol!r}: MCR relays UDP only")
            return None
        table["input"] = {name: part for name, part in source.items() if name != "protocol"}
    if isinstance(table.get("outputs"), list):
        table["outputs"] = [_output(each) for each in table["outputs"]]
    return read_rule(table, path, faults).rule


def _output(value: object) -> object:
    """As MCR has it."""
    if not isinstance(value, dict):
        return value
    return {name: part for name, part in value.items() if name != "ttl" or part not in _DEFAULT_TTL}


def _clash(rule: Rule, line: int, taken: dict[object, int]) -> str:
    """What it has in common with a rule before it, which has to be its own; empty: nothing."""
    for what, value in (("input", rule.input), ("name", rule.name)):
        first = taken.setdefault((what, value), line) if value is not None else line
        if first != line:
            return f"Rule already exists: the same {what} as on line {first}, {value}"
    return ""
