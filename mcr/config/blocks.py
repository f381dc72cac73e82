"""A file's rules as blocks of text: a block that was read before is not read again.

Files of thousands of rules are read again for each change, which is mostly of one. What is read here is what reading
the file as a whole would give; where that is not certain, nothing is.
"""

import re
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import attrs

from mcr.config.document import Document
from mcr.config.rule_table import FileFaults, read_rule
from mcr.model.plain import plain_rule
from mcr.model.rule import Rule

_HEADER: Final = re.compile(r"^\[\[rule\]\][ \t\r]*(?:#.*)?$", re.MULTILINE)

# A rule as most are: IPv4, one group and port, outputs without options, text without escapes (TOML 1.0).
_END: Final = r"[ \t]*(?:#[\t -~]*)?\n"
_LABEL: Final = r'"([ !#-\[\]-~]*)"'
_NAME, _GROUP, _PORT = r"[A-Za-z0-9_.@-]+", r"[0-9.]+", r"[1-9][0-9]{0,4}"
_SENT: Final = re.compile(rf'"({_GROUP}):({_PORT}):({_NAME})"')
_PLAIN: Final = re.compile(
    rf"\[\[rule\]\]{_END}(?:{_END})*"
    rf"(?:name = {_LABEL}{_END})?(?:rule_id = {_LABEL}{_END})?"
    rf'input = \{{ *interface = "({_NAME})", *group = "({_GROUP})", *port = ({_PORT}) *\}}{_END}'
    rf'outputs = \[[ \t\n]*("[^"]*"(?:,[ \t\n]*"[^"]*")*),?[ \t\n]*\](?:{_END})+'
)


@attrs.frozen
class Blocks:
    """A file without a fault in a rule.

    Attributes:
        values: of what stands before the first rule.
        rules: each with its text, in their order. A text that stands there twice is a rule that does.
    """

    values: dict[str, Any]
    rules: tuple[tuple[str, Rule], ...]


def read_blocks(text: str, known: Mapping[str, Rule]) -> Blocks | None:
    """Read a file block by block.

    Args:
        text: of the file.
        known: rules by their texts.

    Returns:
        None: there is a fault, or tables are written in another way than block by block.
    """
    starts = [match.start() for match in _HEADER.finditer(text)]
    if not starts:
        return None
    # A string or an array that goes on over the end of a block has no end in it: such a block can't be read alone.
    try:
        values = tomllib.loads(text[: starts[0]])
        if "rule" in values:
            return None
        rules = []
        for start, end in pairwise([*starts, len(text)]):
            block = text[start:end]
            rule = known.get(block) or _read(block)
            if rule is None:
                return None
            rules.append((block, rule))
    except (ValueError, RecursionError):
        return None
    return Blocks(values, tuple(rules))


def _read(block: str) -> Rule | None:
    return _read_plain(block) or _read_any(block)


def _read_plain(block: str) -> Rule | None:
    """A rule as most are, without faults; None: it is another. A reader of TOML takes ten times as long for it."""
    found = _PLAIN.fullmatch(block)
    if not found:
        return None
    name, rule_id, interface, group, port, listed = found.groups()
    sent = _SENT.findall(listed)
    if 2 * len(sent) != listed.count('"'):
        return None
    ends = [(interface, group, int(port)), *((name, group, int(port)) for group, port, name in sent)]
    return plain_rule(ends, rule_id, name)


def _read_any(block: str) -> Rule | None:
    values = tomllib.loads(block)
    if values.keys() != {"rule"} or len(values["rule"]) != 1:
        return None
    faults = FileFaults("", Document("", {}))
    return read_rule(values["rule"][0], (), faults).rule
