"""The rules on disk: what was acknowledged is there after a crash, a reboot or a power cut.

SQLite in WAL mode, synchronised at each commit: a row for each rule, and a text beside them. Rules of the module:

1. One thread at a time uses a store. Whatever it does may wait for the disk.
2. A write is whole or not there.
3. A file that can't be used is never overwritten: it is set aside under a name that says when, and what can still be
   read of a damaged one is taken over.
4. The lock of the file is held for as long as the store is open: two daemons never share a directory.
"""

import errno
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, Self, assert_never

import attrs
import cattrs

from mcr.errors import McrError, SystemFault
from mcr.model.flow import Address, parse_address
from mcr.model.rule import Rule
from mcr.model.saving import Saving

FILE: Final = "rules.sqlite"
_APPLICATION: Final = 0x4D435231  # "MCR1" (PRAGMA application_id): tells our files from those of others
_VERSION: Final = 1  # of the table (PRAGMA user_version)
_TABLE: Final = "CREATE TABLE rules (position INTEGER PRIMARY KEY, rule_id TEXT UNIQUE NOT NULL, rule TEXT NOT NULL)"
_KEPT: Final = "CREATE TABLE IF NOT EXISTS kept (text TEXT NOT NULL)"  # one row, or none
_COMPANIONS: Final = ("-wal", "-shm", "-journal")
_ASIDE: Final = ".set-aside-"  # and when
_LOCK_SECONDS: Final = 1.0  # for one that is just ending
_ERRNOS: Final = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_IOERR": errno.EIO,
    "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_NOMEM": errno.ENOMEM,
    "SQLITE_BUSY": errno.EBUSY,
}
OWED: Final = "a refused change is still saved: it can come back if mcrd restarts before the next change is saved"
_NO_RULE: Final = (ValueError, KeyError, TypeError, McrError)  # what a row may hold instead
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"})


def _exactly(value: object, expected: Any) -> Any:
    if type(value) is not expected:
        raise TypeError(f"{value!r} is no {expected.__name__}")
    return value


_converter: Final = cattrs.Converter(detailed_validation=False)
_converter.register_structure_hook(str, _exactly)
_converter.register_structure_hook(int, _exactly)
_converter.register_structure_hook(Address, lambda value, _: parse_address(_exactly(value, str), "group"))
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


class StateInUse(McrError):
    """Another daemon has the directory's file open."""


class _Foreign(Exception):
    """A sound file, and not one of this version of mcrd."""


class RuleFile:
    """The file of one daemon.

    Attributes:
        path: of it.
        rules: those it held when it was opened, in the order in which they were added.
        kept: the text beside them; empty: none. One that is owed counts.
        notices: what an operator should be told of it.
    """

    def __init__(self, path: Path, database: sqlite3.Connection | None, *notices: str) -> None:
        self.path = path
        self._database = database
        self._trouble = ""
        self._refusal = errno.EROFS
        self._owed: tuple[Change, ...] = ()
        self.rules: tuple[Rule, ...] = ()
        self.kept = ""
        self.notices = list(notices)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the file of a directory, which is made if only its last component is missing.

        A directory that can be read and not written gives a store that refuses every change.

        Raises:
            SystemFault: the directory can't be made or used.
            StateInUse: by another daemon.
            McrError: others may write in it.
        """
        _make_directory(directory)
        path = directory / FILE
        try:
            database, notices = _open_or_renew(path)
        except (sqlite3.Error, OSError) as error:
            number = errno.EROFS if _is_read_only(directory) else _errno(error)
            if number == errno.EBUSY:
                raise StateInUse(
                    f"Another mcrd uses the state directory {directory}",
                    "give this one its own: --state-dir DIR, or none: --no-state",
                ) from None
            if number == errno.EACCES:
                raise _unusable(directory, number) from None
            return cls._of_what_can_be_read(path, number)
        store = cls(path, database, *notices)
        store.rules = tuple(_rules_of(database))
        store.kept = _kept_in(database)
        return store

    @classmethod
    def _of_what_can_be_read(cls, path: Path, number: int) -> Self:
        """The rules of a file that can't be written."""
        directory = path.parent
        refusal = SystemFault(f"Changes of the rules can't be saved in {directory}", number)
        store = cls(path, None, f"{refusal.message}; rules can't be changed until that is mended")
        store._trouble = refusal.message
        store._refusal = number
        saved = _salvage(path)
        store.rules, store.kept = saved.rules, saved.kept
        if saved.fault:
            count = len(saved.rules)
            store.notices.append(f"not all of {path} can be read ({saved.fault}): mcrd starts with {count} rules of it")
        return store

    def write(self, changes: Iterable[Change]) -> None:
        """Make changes last, all of them or none, after those that are owed. They are on the disk when this returns.

        Raises:
            SystemFault: they can't be: the disk is full, read-only, or fails.
        """
        if self._database is None:
            raise _not_saved(self.path.parent, self._refusal)
        lasting = (*self._owed, *changes)
        try:
            _write_all(self._database, lasting)
        except sqlite3.Error as error:
            fault = _not_saved(self.path.parent, _errno(error), *([OWED] if self._owed else []))
            self._trouble = fault.message
            raise fault from None
        self._trouble, self._owed = "", ()
        self.kept = _kept_after(lasting, self.kept)

    def owe(self, changes: Sequence[Change]) -> None:
        """Make changes with the next ones that can be written: they take back what was, and could not be now."""
        self._owed += tuple(changes)
        self.kept = _kept_after(changes, self.kept)

    @property
    def owes_text(self) -> bool:
        """Whether the text on the disk is not `kept`."""
        return any(isinstance(each, Keep) for each in self._owed)

    @property
    def saving(self) -> Saving:
        """How it stands, from any thread: by the last write, what is owed, and whether the file can be written."""
        return Saving(str(self.path), f"{self._trouble}; {OWED}" if self._owed else self._trouble)

    def close(self) -> None:
        """Close the file. What was written is on the disk already; what is owed may be now."""
        if self._owed:
            with suppress(McrError):
                self.write(())
        if self._database is not None:
            self._database.close()


def _kept_after(changes: Sequence[Change], before: str) -> str:
    return next((each.text for each in reversed(changes) if isinstance(each, Keep)), before)


def _not_saved(directory: Path, number: int, *more: str) -> SystemFault:
    return SystemFault(
        f"Rules can't be saved in {directory}",
        number,
        "nothing was changed, and the rules that run go on",
        *more,
        f"make room or mend the disk (df {directory}), then try again",
    )


def _unusable(directory: Path, number: int) -> SystemFault:
    return SystemFault(f"State directory {directory}", number, "give another: --state-dir DIR, or none: --no-state")


def _make_directory(directory: Path) -> None:
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
    except OSError as error:
        raise _unusable(directory, error.errno or errno.EIO) from None
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others or status.st_uid not in {0, os.geteuid()}:
        raise McrError(
            f"Others may write in the state directory {directory}",
            f"who can write there can change the rules: chown it to mcrd's user, and chmod go-w {directory}",
        )


def _connect(path: Path) -> sqlite3.Connection:
    with suppress(OSError):  # which SQLite tells better
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))  # SQLite would let everybody read it
    return sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)


def _open_or_renew(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """A file that can be used, and what to tell of the one that could not.

    Raises:
        sqlite3.Error, OSError: the disk or another daemon is in the way.
    """
    try:
        return _opened(path), []
    except _Foreign as error:
        aside = _set_aside(path)
        return _opened(path), [f"{path} {error}: it is {aside} now, and mcrd starts without the rules in it"]
    except sqlite3.DatabaseError as error:
        if _name(error) not in _DAMAGED:
            raise
        saved = _salvage(path)
        aside = _set_aside(path)
        return _renewed(path, aside, saved), [
            f"{path} is damaged ({error}): it is {aside} now; {len(saved.rules)} rules could be read and are kept"
        ]


def _renewed(path: Path, aside: Path, saved: "_Salvaged") -> sqlite3.Connection:
    """A new file with what was in the one that was set aside; that is where it was if there is no room for both."""
    with ExitStack() as undo:
        undo.callback(_move, aside, path)
        database = _opened(path)
        undo.callback(database.close)
        _write_all(database, (*map(Put, saved.rules), Keep(saved.kept)))
        undo.pop_all()
    return database


def _opened(path: Path) -> sqlite3.Connection:
    database = _connect(path)
    try:
        _prepare(database)
        _check(database)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    """Raise a `DatabaseError` if not everything in it can be read."""
    found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    for _ in _rules_of(database):
        pass


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    is_new = _is_new(database)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    with _transaction(database):
        database.execute(_KEPT)
        if is_new:
            database.execute(f"PRAGMA application_id={_APPLICATION}")
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version={_VERSION}")


def _is_new(database: sqlite3.Connection) -> bool:
    """Whether there is nothing in it. Raises `_Foreign` if it is not of this version of mcrd."""
    application, version = (
        database.execute(f"PRAGMA {each}").fetchone()[0] for each in ("application_id", "user_version")
    )
    is_new = not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not is_new and application != _APPLICATION:
        raise _Foreign("is another program's")
    if version > _VERSION:
        raise _Foreign(f"was written by a newer mcrd (version {version} of the table, this one knows {_VERSION})")
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


def _write_all(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    try:
        _write_once(database, changes)
    except sqlite3.OperationalError as error:
        if _name(error) != "SQLITE_FULL":
            raise
        # The write-ahead log then has room for more, at its beginning.
        database.execute("PRAGMA wal_checkpoint(RESTART)")
        _write_once(database, changes)


def _write_once(database: sqlite3.Connection, changes: Sequence[Change]) -> None:
    with _transaction(database):
        for change in changes:
            _write_one(database, change)


def _write_one(database: sqlite3.Connection, change: Change) -> None:
    match change:
        case Put(rule):
            database.execute(
                "INSERT INTO rules (rule_id, rule) VALUES (?, ?)"
                " ON CONFLICT (rule_id) DO UPDATE SET rule = excluded.rule",
                (rule.rule_id, json.dumps(_converter.unstructure(rule))),
            )
        case Drop(rule_id):
            database.execute("DELETE FROM rules WHERE rule_id = ?", (rule_id,))
        case Keep(text):
            database.execute("DELETE FROM kept")
            if text:
                database.execute("INSERT INTO kept (text) VALUES (?)", (text,))
        case _:
            assert_never(change)


def _rules_of(database: sqlite3.Connection) -> Iterator[Rule]:
    for rule_id, text in database.execute("SELECT rule_id, rule FROM rules ORDER BY position"):
        try:
            yield _converter.structure(json.loads(text), Rule)
        except _NO_RULE as error:
            raise sqlite3.DatabaseError(f"rule {rule_id}: {error!r}") from None


def _kept_in(database: sqlite3.Connection) -> str:
    row = database.execute("SELECT text FROM kept").fetchone()
    return str(row[0]) if row else ""


@attrs.frozen
class _Salvaged:
    """What could be read of a file; why that is not all, empty: it is."""

    rules: tuple[Rule, ...]
    kept: str
    fault: str


def _salvage(path: Path) -> _Salvaged:
    """Read what can be read of a file, which stays as it is."""
    saved: dict[str, Rule] = {}
    kept = fault = ""
    try:
        with tempfile.TemporaryDirectory(prefix="mcr-") as copy:
            for suffix in ("", *_COMPANIONS):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", Path(copy) / f"{FILE}{suffix}")
            with closing(_connect(Path(copy) / FILE)) as database:
                rows = () if _is_new(database) else database.execute("SELECT rule FROM rules ORDER BY position")
                for (text,) in rows:
                    try:
                        rule = _converter.structure(json.loads(text), Rule)
                    except _NO_RULE as error:
                        fault = repr(error)
                    else:
                        saved[rule.rule_id] = rule
                with suppress(sqlite3.Error):  # a file of before has no such table
                    kept = _kept_in(database)
    except (sqlite3.Error, OSError, _Foreign) as error:
        fault = str(error)
    return _Salvaged(tuple(saved.values()), kept, fault)


def files_set_aside(path: str) -> list[str]:
    """Files that were set aside in favour of this one, oldest first, and that are still there."""
    if not path:
        return []
    found = map(str, Path(path).parent.glob(f"{Path(path).name}{_ASIDE}*"))
    return sorted(each for each in found if not each.endswith(_COMPANIONS))


def _set_aside(path: Path) -> Path:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}{_ASIDE}{when}")
    _move(path, aside)
    return aside


def _move(path: Path, to: Path) -> None:
    for suffix in ("", *_COMPANIONS):
        Path(f"{to}{suffix}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{to}{suffix}")


def _name(error: sqlite3.Error) -> str:
    """SQLite's name of what went wrong, without what it adds to it (https://sqlite.org/rescode.html)."""
    return "_".join((getattr(error, "sqlite_errorname", None) or "SQLITE_CORRUPT").split("_")[:2])


def _is_read_only(directory: Path) -> bool:
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def _errno(error: sqlite3.Error | OSError) -> int:
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    return _ERRNOS.get(_name(error), errno.EIO)
