"""The table of rules in an SQLite database: made, checked, read and written. What is wrong is SQLite's error."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import Any, Final, assert_never

import attrs
import cattrs

from mcr.errors import McrError
from mcr.model.flow import Address, parse_address
from mcr.model.health import Health
from mcr.model.output_options import Source, parse_source
from mcr.model.rule import Rule

_APPLICATION: Final = 0x4D435231  # "MCR1" (PRAGMA application_id): tells our files from those of others
_VERSION: Final = 1  # of the table (PRAGMA user_version), as it is made
_NARROW: Final = 2  # with rules that take less than a group and port, or no group: an mcrd that does not know would err
_RANGES: Final = 3  # with rules that take several groups or ports, or send to them: likewise
_TABLE: Final = "CREATE TABLE rules (position INTEGER PRIMARY KEY, rule_id TEXT UNIQUE NOT NULL, rule TEXT NOT NULL)"
_KEPT: Final = "CREATE TABLE IF NOT EXISTS kept (text TEXT NOT NULL)"  # one row, or none
_NO_RULE: Final = (ValueError, KeyError, TypeError, McrError)  # what a row may hold instead


def _exactly(value: object, expected: Any) -> Any:
    if type(value) is not expected:
        raise TypeError(f"{value!r} is no {expected.__name__}")
    return value


_converter: Final = cattrs.Converter(detailed_validation=False)
_converter.register_structure_hook(str, _exactly)
_converter.register_structure_hook(int, _exactly)
_converter.register_structure_hook(Health, lambda value, _: Health.parse(value))
_converter.register_structure_hook(Address, lambda value, _: parse_address(_exactly(value, str), "group"))
_converter.register_structure_hook(int | str | None, lambda value, _: value)  # which the output checks
_converter.register_structure_hook(
    Source, lambda value, _: None if value is None else parse_source(_exactly(value, str))
)
_converter.register_unstructure_hook(IPv4Address, str)
_converter.register_unstructure_hook(IPv6Address, str)


@attrs.frozen
class Put:
    """Write a rule, in the place of the one with its id if there is one."""

    rule: Rule


@attrs.frozen
class Drop:
    """Forget a rule."""

    rule_id: str


@attrs.frozen
class Keep:
    """Keep a text beside the rules, in the place of the one before; empty: none."""

    text: str


Change = Put | Drop | Keep


class ForeignFile(Exception):
    """A sound file, and not one of this version of mcrd."""


def checked_rules(database: sqlite3.Connection) -> tuple[Rule, ...]:
    """As `rules_of`, if everything in it can be read. Raises a `DatabaseError` if not."""
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    return tuple(rules_of(database))


def prepare(database: sqlite3.Connection) -> None:
    """Lock it, and make the table if there is none. Raises `ForeignFile` if it is not of this version of mcrd."""
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    made_now = is_new(database)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    with _transaction(database):
        database.execute(_KEPT)
        if made_now:
            database.execute(f"PRAGMA application_id={_APPLICATION}")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version={_VERSION}")


def is_new(database: sqlite3.Connection) -> bool:
    """Whether there is nothing in it. Raises `ForeignFile` if it is not of this version of mcrd."""
    application, version = (
        database.execute(f"PRAGMA {each}").fetchone()[0] for each in ("application_id", "user_version")
    )
    is_new = not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not is_new and application != _APPLICATION:
        raise ForeignFile("is another program's")
    if version > _RANGES:
        raise ForeignFile(f"was written by a newer mcrd (version {version} of the table, this one knows {_RANGES})")
    return is_new


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # it has been rolled back, as a full disk does by itself
            database.execute("ROLLBACK")
        raise


def write_all(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make changes last, all of them or none."""
    try:
        _write_once(database, changes)
    except sqlite3.OperationalError as error:
        if error_name(error) != "SQLITE_FULL":
            raise
        # The write-ahead log then has room for more, at its beginning.
        database.execute("PRAGMA wal_checkpoint(RESTART)")
        _write_once(database, changes)


def _write_once(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    with _transaction(database):
        for is_put, some in groupby(changes, lambda each: isinstance(each, Put)):
            if is_put:
                _put_all(database, [each.rule for each in some if isinstance(each, Put)])
            else:
                for change in some:
                    _write_one(database, change)


def _put_all(database: sqlite3.Connection, rules: Sequence[Rule]) -> None:
    database.executemany(
        "INSERT INTO rules (rule_id, rule) VALUES (?, ?) ON CONFLICT (rule_id) DO UPDATE SET rule = excluded.rule",
        ((rule.rule_id, json.dumps(_converter.unstructure(rule))) for rule in rules),
    )
    needed = max(map(_version_for, rules))
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if needed > version:
        database.execute(f"PRAGMA user_version={needed}")


def _write_one(database: sqlite3.Connection, change: Change) -> None:
    match change:
        case Put(rule):
            _put_all(database, [rule])
        case Drop(rule_id):
            database.execute("DELETE FROM rules WHERE rule_id = ?", (rule_id,))
        case Keep(text):
            database.execute("DELETE FROM kept")
            if text:
                database.execute("INSERT INTO kept (text) VALUES (?)", (text,))
        case _:
            assert_never(change)


def _version_for(rule: Rule) -> int:
    """The least of the table that has such a rule."""
    if rule.input.is_range or any(output.is_range for output in rule.outputs):
        return _RANGES
    narrow = rule.input.sources or rule.input.vlan is not None or not rule.input.group.is_multicast
    return _NARROW if narrow else _VERSION


def empty_log(database: sqlite3.Connection) -> None:
    """Move what is in the write-ahead log to the file itself, which may have no name by now."""
    is_busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise sqlite3.OperationalError("its log is in use")


def reopen_log(database: sqlite3.Connection) -> None:
    """Open a write-ahead log anew, where it is looked for. What is in the open one is lost unless that is empty."""
    for mode in ("delete", "wal"):
        (now,) = database.execute(f"PRAGMA journal_mode={mode}").fetchone()
        if now != mode:
            raise sqlite3.OperationalError(f"journal mode {now} instead of {mode}")


def rules_of(database: sqlite3.Connection) -> Iterator[Rule]:
    """Those in it, in the order in which they were added. Raises a `DatabaseError` at one that can't be read."""
    for rule_id, text in database.execute("SELECT rule_id, rule FROM rules ORDER BY position"):
        try:
            yield _converter.structure(json.loads(text), Rule)
        except _NO_RULE as error:
            raise sqlite3.DatabaseError(f"rule {rule_id}: {error!r}") from None


def readable_rules(database: sqlite3.Connection) -> Iterator[Rule | str]:
    """Those of a database that may be damaged; in the place of one that can't be read, why."""
    if is_new(database):
        return
    for (text,) in database.execute("SELECT rule FROM rules ORDER BY position"):
        try:
            yield _converter.structure(json.loads(text), Rule)
        except _NO_RULE as error:
            yield repr(error)


def kept_in(database: sqlite3.Connection) -> str:
    """The text beside the rules; empty: none."""
    row = database.execute("SELECT text FROM kept").fetchone()
    return str(row[0]) if row else ""


def error_name(error: sqlite3.Error) -> str:
    """SQLite's name of what went wrong, without what it adds to it (https://sqlite.org/rescode.html)."""
    return "_".join((getattr(error, "sqlite_errorname", None) or "SQLITE_CORRUPT").split("_")[:2])
