"""Configuration files: the settings and rules of a file, or of a directory of them, and every fault of all at once.

Rules of the module:

1. Nothing that stands in a file raises. Whoever uses it looks at the faults first.
2. A fault is told where it is, once: nothing is said of what only follows from it.
3. Lines are looked up where they are told, not before: it takes as long as reading the file.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import attrs

from mcr.config.blocks import read_blocks
from mcr.config.document import Document, Path, read_document
from mcr.config.kinds import Switch, Whole
from mcr.config.rule_table import FileFault, FileFaults, RuleTable, place_text, read_rule
from mcr.config.table import TABLE, Setting
from mcr.errors import describe_errno
from mcr.model.limits import MAX_OUTPUTS, MAX_RULES
from mcr.model.rule import Rule

_SUFFIX: Final = ".toml"
_MAX_BYTES: Final = 64 << 20  # a full relay takes a tenth of it
_SETTINGS: Final[dict[str, Setting[Any]]] = {setting.name: setting for setting in TABLE}


@attrs.frozen
class Place:
    """Where something stands in a file. Its text, FILE:LINE, takes a while for the first place of a file."""

    file: str
    _document: Document = attrs.field(repr=False)
    _path: Path

    def __str__(self) -> str:
        return place_text(self.file, self._document.line(self._path))


@attrs.frozen
class FormerPlace:
    """Where a rule stood until the files were changed."""

    until: str

    def __str__(self) -> str:
        return f"the configuration files as they were before {self.until}"


@attrs.frozen
class FileRule:
    """A rule, and where it stands, or stood."""

    rule: Rule
    place: Place | FormerPlace


@attrs.frozen
class Configuration:
    """What files say.

    Attributes:
        files: that were read, in their order.
        settings: by their names, as text.
        faults: in the order of files and lines. If there are any, the rest is not all that the files say.
        warnings: what may be a mistake, and is no fault.
        blocks: rules by their texts, for the next reading.
    """

    files: tuple[str, ...] = ()
    settings: Mapping[str, str] = attrs.field(factory=dict)
    rules: tuple[FileRule, ...] = ()
    faults: tuple[FileFault, ...] = ()
    warnings: tuple[str, ...] = ()
    blocks: Mapping[str, Rule] = attrs.field(factory=dict, eq=False, repr=False)


@attrs.frozen
class ConfigurationPaths:
    """Where configuration is looked for, each time that it is read.

    Attributes:
        must_exist: a path that is not there is a fault; else it says nothing.
    """

    paths: tuple[str, ...] = ()
    must_exist: bool = True

    def are_there(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._there())

    def read(self, before: Configuration | None = None) -> Configuration:
        """Read what is there. It takes less time if most of it is as it was `before`."""
        read = read_configuration(self._there(), before.blocks if before else {})
        return attrs.evolve(read, warnings=tuple(self._warnings()))

    def _warnings(self) -> Iterator[str]:
        """Directories that no file is read of. That the package's holds nothing is as it should be."""
        for path in self.paths:
            with suppress(OSError):  # which is a fault
                there = _names_in(path)
                if there is not None and not _to_be_read(there) and (there or self.must_exist):
                    yield f"no file in {path} ends with {_SUFFIX}"

    def _there(self) -> list[str]:
        return [path for path in self.paths if self.must_exist or _is_there(path)]


def _is_there(path: str) -> bool:
    """Whether there is such a path, or may be one: in a directory that can't be looked into."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_configuration(paths: Sequence[str], known: Mapping[str, Rule] = MappingProxyType({})) -> Configuration:
    """Read files, and of directories those that end with .toml, by name.

    Args:
        paths: of files and directories.
        known: rules by their texts, which need not be read again.
    """
    faults: list[FileFault] = []
    readers: list[FileFaults] = []
    tables: list[tuple[FileFaults, RuleTable]] = []
    blocks: dict[str, Rule] = {}
    order: dict[str, int] = {}
    for path in _files(paths, faults):
        order[path] = len(order)
        text = _read(path, faults)
        if text is None:
            continue
        found = read_blocks(text, known)
        document = Document(text, found.values) if found else read_document(text)
        reader = FileFaults(path, document, [FileFault(path, each.line, each.message) for each in document.faults])
        readers.append(reader)
        stated = _rules(reader)
        if found:
            blocks |= found.rules
            stated = [_table_of(rule, index) for index, (_, rule) in enumerate(found.rules)]
        tables += ((reader, table) for table in stated)
    settings = _settings(readers)
    _tell_duplicates(tables)
    _tell_limits(tables)
    for reader in readers:
        faults += reader.found
    faults.sort(key=lambda fault: (order.get(fault.file, -1), fault.line))
    return Configuration(
        files=tuple(reader.file for reader in readers),
        settings=settings,
        rules=tuple(
            FileRule(table.rule, Place(reader.file, reader.document, table.path))
            for reader, table in tables
            if table.rule
        ),
        faults=tuple(faults),
        blocks=blocks,
    )


def _table_of(rule: Rule, index: int) -> RuleTable:
    return RuleTable(("rule", index), rule, rule.input, rule.rule_id, rule.name)


def _files(paths: Sequence[str], faults: list[FileFault]) -> Iterator[str]:
    """Each once, though it may be named twice."""
    seen: set[str] = set()
    for path in paths:
        try:
            inside = _names_in(path)
        except OSError as error:
            faults.append(_unreadable(path, error))
            continue
        names = _to_be_read(inside or ())
        for file in [path] if inside is None else [os.path.join(path, name) for name in names]:  # noqa: PTH118
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file


def _names_in(path: str) -> list[str] | None:
    """What is in a directory, in order; None: it is none."""
    return sorted(os.listdir(path)) if os.path.isdir(path) else None  # noqa: PTH112, PTH208


def _to_be_read(names: Iterable[str]) -> list[str]:
    # A name with a dot in front is an editor's.
    return [each for each in names if each.endswith(_SUFFIX) and not each.startswith(".")]


def _read(path: str, faults: list[FileFault]) -> str | None:
    """The text of a file; None if it can't be read at all."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path such as ./x stays as it was given
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        faults.append(FileFault(path, line, "not text in UTF-8", ("save the file as UTF-8",)))
        return None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        faults.append(_unreadable(path, error))
        return None
    if len(data) > _MAX_BYTES:
        faults.append(FileFault(path, 0, f"longer than {_MAX_BYTES:,} bytes"))
        return None
    return text


def _unreadable(path: str, error: OSError | ValueError) -> FileFault:
    number = error.errno if isinstance(error, OSError) else None
    return FileFault(path, 0, describe_errno(number) if number else str(error))


# Rules.


def _rules(reader: FileFaults) -> list[RuleTable]:
    """The rules of one file; on the way, whatever else stands at its top."""
    values = reader.document.values
    for name in values:
        if name in _SETTINGS:
            reader.add((name,), f"Unknown key {name!r} in the file", "it is a setting: put it below [settings]")
        elif name not in ("settings", "rule"):
            reader.unknown((), name, ("settings", "rule"), "the file")
    rules = values.get("rule", [])
    if isinstance(rules, dict):
        reader.add(("rule",), "rule must be an array of tables, not a table", "a rule begins with: [[rule]]")
        return []
    if not reader.has_type(("rule",), rules, (list,), "rule"):
        return []
    cut = _cut_rules(reader.document)
    return [read_rule(each, ("rule", index), reader, cut=index in cut) for index, each in enumerate(rules)]


def _cut_rules(document: Document) -> set[int]:
    """Indices of rules in which something could not be read: whatever stands there may be what they lack."""
    rules = document.values.get("rule")
    if not document.faults or not isinstance(rules, list):
        return set()
    starts = {document.line(("rule", index)): index for index in range(len(rules))}
    others = {document.line((name,)) for name in document.values} - starts.keys()
    ends = [*sorted(starts.keys() | others), len(document.text) + 1]
    faulty = [fault.line for fault in document.faults]
    return {
        starts[start]
        for start, end in pairwise(ends)
        if start in starts and any(start <= line < end for line in faulty)
    }


def _tell_duplicates(tables: Sequence[tuple[FileFaults, RuleTable]]) -> None:
    """Each rule needs an input, an id and a name of its own."""
    if _are_apart([table for _, table in tables]):
        return
    seen: dict[tuple[str, object], tuple[FileFaults, RuleTable]] = {}
    for reader, table in tables:
        same_input: RuleTable | None = None
        inputs = (("input", claim) for claim in (table.input.claims if table.input else ()))
        for what, value in (*inputs, ("id", table.rule_id), ("name", table.name)):
            kind = what if what == "input" else "label"  # one's id is not another's name, either
            first, other = seen.setdefault((kind, value), (reader, table))
            if other is table or value is None:
                continue
            if what != "name" and other is same_input:
                continue  # another source of it was told; and ids are made of the input
            if what == "input":
                same_input = other
            place = place_text(first.file, first.document.line(other.path))
            reader.add(
                table.path,
                f"Rule already exists: {_same(what, value, other)} at {place}, {value}",
                "every rule needs an input, an id and a name of its own",
            )


def _are_apart(tables: Sequence[RuleTable]) -> bool:
    """Whether no two have anything of that, as it is mostly: to find out where takes longer."""
    claims = [claim for table in tables if table.input for claim in table.input.claims]
    labels = [label for table in tables for label in {table.rule_id, table.name} if label is not None]
    return len({*claims}) == len(claims) and len({*labels}) == len(labels)


def _same(what: str, value: object, other: RuleTable) -> str:
    """How a part of a rule is another's."""
    if what == "id" and other.rule_id != value:
        return "its id is the name of the rule"
    if what == "name" and other.name != value:
        return "its name is the id of the rule"
    return f"the same {what} as"


def _tell_limits(tables: Sequence[tuple[FileFaults, RuleTable]]) -> None:
    outputs = flows = 0
    for count, (reader, table) in enumerate(tables, 1):
        before, outputs = outputs, outputs + (len(table.rule.outputs) if table.rule else 0)
        if count == MAX_RULES + 1:
            reader.add(table.path, f"{len(tables):,} rules are too many", f"a relay holds at most {MAX_RULES:,} rules")
        flows_before, flows = flows, flows + (len(table.input.claims) if table.input else 1)
        if flows_before <= MAX_RULES < flows and len(tables) <= MAX_RULES:
            limit = f"a relay holds at most {MAX_RULES:,} rules; one that takes several flows counts for each"
            reader.add(table.path, "too many flows", limit)
        if before <= MAX_OUTPUTS < outputs:
            reader.add(table.path, "too many outputs", f"a relay holds at most {MAX_OUTPUTS:,} outputs")


# Settings.


def _settings(readers: Iterable[FileFaults]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    places: dict[str, FileFaults] = {}
    for reader in readers:
        table = reader.document.values.get("settings", {})
        if not reader.has_type(("settings",), table, (dict,), "settings"):
            continue
        for name, value in table.items():
            path = ("settings", name)
            if name not in _SETTINGS:
                reader.unknown(("settings",), name, tuple(_SETTINGS), "settings")
                continue
            if name in places:
                place = place_text(places[name].file, places[name].document.line(path))
                reader.add(path, f"{name} is set already at {place}", "a setting stands in one file")
                continue
            places[name] = reader
            text = _setting_text(reader, path, _SETTINGS[name], value)
            if text is not None:
                chosen[name] = text
    return chosen


def _setting_text(reader: FileFaults, path: Path, setting: Setting[Any], value: object) -> str | None:
    """A setting's value as the environment would have it; None if it is not allowed."""
    match setting.kind:
        case Switch():
            types: tuple[type, ...] = (bool, int)
        case Whole():
            types = (int,)
        case _:
            types = (str,)
    if not reader.has_type(path, value, types, setting.name):
        return None
    text = str(int(value)) if isinstance(value, int) else str(value)
    try:
        setting.kind.parse(text)
    except ValueError:
        refusal = setting.kind.refusal(text, setting.name, setting.meaning)
        reader.add(path, refusal.message, *refusal.hints)
        return None
    return text


__all__ = ["Configuration", "FileFault", "FileRule", "Place", "read_configuration"]
