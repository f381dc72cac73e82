"""What the configuration of another program comes to: rules as a file of MCR has them, and what has none."""

from collections.abc import Iterable
from typing import Any, Final

import attrs

from mcr.config.rule_table import FileFault, place_text
from mcr.config.writing import toml_of_table
from mcr.errors import McrError, UsageError, describe_errno
from mcr.model.flow import Input, parse_address
from mcr.model.rule import Output, Rule
from mcr.text.addresses import with_port
from mcr.text.ranges import split_group
from mcr.text.visible import visible

NO_PORT: Final = 0
"""Stands where the other program names no port. It is none, so that `mcrctl config check` names the line."""

_MAX_BYTES: Final = 64 << 20
_ANY_PORT: Final = 1  # to have the rest of a rule checked


@attrs.frozen
class ImportedRule:
    """A rule's table, and the place that it comes from."""

    table: dict[str, Any]
    file: str
    line: int


@attrs.frozen
class Imported:
    """A file of another program.

    Attributes:
        rules: in the order of the file.
        untranslated: what MCR has nothing for, or has to be filled in.
    """

    rules: tuple[ImportedRule, ...]
    untranslated: tuple[FileFault, ...]

    def text(self) -> str:
        """The rules as a configuration file."""
        return "\n".join(
            f"# from {visible(place_text(each.file, each.line))}{_remark(each.table)}\n{toml_of_table(each.table)}"
            for each in self.rules
        )


def _remark(table: dict[str, Any]) -> str:
    return ": replace each port 0" if table["input"]["port"] == NO_PORT else ""


@attrs.frozen
class Findings:
    """Collects what comes of a file, and of those that it includes.

    Attributes:
        program: whose file it is.
    """

    program: str
    rules: list[ImportedRule] = attrs.field(factory=list)
    untranslated: list[FileFault] = attrs.field(factory=list)

    def note(self, file: str, line: int, message: str, *hints: str) -> None:
        """Tell of something that is not translated."""
        self.untranslated.append(FileFault(file, line, message, hints))

    def can_relay(
        self, file: str, line: int, interface: str, group: str, outputs: Iterable[str], *, source: str = ""
    ) -> bool:
        """Whether there can be a rule that relays a group as it is. Why not is told. `source`: empty: any."""
        try:
            first, prefix = split_group(group)
            address = parse_address(first, "group")
            relayed = tuple(Output(address, _ANY_PORT, name, prefix=prefix) for name in dict.fromkeys(outputs))
            sources = (parse_address(source, "source"),) if source else ()
            Rule("any", Input(interface, address, _ANY_PORT, sources=sources, prefix=prefix), relayed)
        except McrError as error:
            self.note(file, line, error.message, *error.hints)
            return False
        return True

    def add_without_port(
        self, file: str, line: int, interface: str, group: str, outputs: Iterable[str], *, source: str = ""
    ) -> None:
        """Add a rule that relays a group as it is, whose port is to be filled in; or tell why there is none."""
        names = tuple(dict.fromkeys(outputs))
        if not self.can_relay(file, line, interface, group, names, source=source):
            return
        self.add(file, line, without_port(interface, group, names, source))
        self.note(file, line, f"{self.program} names no ports: the rule has port 0, which is to be replaced")

    def add(self, file: str, line: int, table: dict[str, Any]) -> None:
        """Add a rule."""
        self.rules.append(ImportedRule(table, file, line))

    def result(self) -> Imported:
        """All of it."""
        notes = dict.fromkeys(self.untranslated)
        return Imported(tuple(self.rules), tuple(sorted(notes, key=lambda each: (each.file, each.line))))


def without_port(interface: str, group: str, outputs: Iterable[str], source: str = "") -> dict[str, Any]:
    """The table of a rule that relays a group as it is, to be completed."""
    taken = {"interface": interface, "group": group, "port": NO_PORT} | ({"sources": [source]} if source else {})
    return {"input": taken, "outputs": [f"{with_port(group, NO_PORT)}:{name}" for name in outputs]}


def read_text(path: str) -> str:
    """The text of a file. Bytes that are none become question marks: old files have comments in other encodings.

    Raises:
        UsageError: it can't be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path such as ./x stays as it was given
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        number = error.errno if isinstance(error, OSError) else None
        raise UsageError(f"Cannot read {path}: {describe_errno(number) if number else error}") from None
    if len(data) > _MAX_BYTES:
        raise UsageError(f"Cannot read {path}: longer than {_MAX_BYTES:,} bytes")
    return data.decode("utf-8-sig", errors="replace")
