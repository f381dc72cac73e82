"""The rules on disk: what was acknowledged is there after a crash, a reboot or a power cut.

SQLite in WAL mode, synchronised at each commit: a row for each rule, and a text beside them. Rules of the module:

1. One thread at a time uses a store. Whatever it does may wait for the disk.
2. A write is whole or not there.
3. A file that can't be used is never overwritten: it is set aside under a name that says when, and what can still be
   read of a damaged one is taken over.
4. The lock of the file is held for as long as the store is open: two daemons never share a directory.
5. A file that somebody deleted or renamed while it was open is made again with the next change, with all that it held:
   only where there is none. What another daemon may have made there is left alone, and the change is refused.
"""

import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import attrs

from mcr.errors import McrError, SystemFault, errno_of
from mcr.logs.logger import get_logger
from mcr.model.log import Facility
from mcr.model.rule import Rule
from mcr.model.saving import Saving
from mcr.rules.disk import is_read_only
from mcr.rules.rule_table import (
    Change,
    ForeignFile,
    Keep,
    Put,
    checked_rules,
    empty_log,
    error_name,
    kept_in,
    prepare,
    readable_rules,
    reopen_log,
    rules_of,
    write_all,
)
from mcr.rules.store_refusals import another_file, link_to_nothing, not_made_again, not_saved, unusable

log = get_logger(Facility.RULES)

FILE: Final = "rules.sqlite"
_WRITTEN: Final = ("", "-wal")  # what SQLite writes to, and holds open
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
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR"})


class StateInUse(McrError):
    """Another daemon has the directory's file open."""


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
        self._trouble: McrError | None = None
        self._failed: float | None = None  # when a write last failed; None: the last one did not
        self._refusal = errno.EROFS
        self._owed: tuple[Change, ...] = ()
        self._identity = _identity_of(path)
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
            database, rules, notices = _open_or_renew(_target(path))
        except (sqlite3.Error, OSError) as error:
            number = errno.EROFS if is_read_only(directory) else _errno(error)
            if number == errno.EBUSY:
                raise StateInUse(
                    f"Another mcrd uses the state directory {directory}",
                    "give this one its own: --state-dir DIR, or none: --no-state",
                ) from None
            if number == errno.EACCES:
                raise unusable(directory, number) from None
            return cls._of_what_can_be_read(path, number)
        store = cls(path, database, *notices)
        store.rules = rules
        store.kept = kept_in(database)
        return store

    @classmethod
    def _of_what_can_be_read(cls, path: Path, number: int) -> Self:
        """The rules of a file that can't be written."""
        directory = path.parent
        refusal = SystemFault(f"Changes of the rules can't be saved in {directory}", number)
        store = cls(path, None, f"{refusal.message}; rules can't be changed until that is mended")
        store._trouble = refusal
        store._refusal = number
        saved = _salvage(_target(path))
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
            raise not_saved(self.path.parent, self._refusal)
        lasting = (*self._owed, *changes)
        try:
            if self.is_gone:
                self._database = self._put_right(self._database, lasting)
            else:
                write_all(self._database, lasting)
        except (McrError, sqlite3.Error) as error:
            fault = error if isinstance(error, McrError) else self._refused(error)
            self._trouble, self._failed = fault, time.monotonic()
            raise fault from None
        self._trouble, self._failed, self._owed = None, None, ()
        self.kept = _kept_after(lasting, self.kept)

    def _refused(self, error: sqlite3.Error) -> McrError:
        return not_saved(self.path.parent, _errno(error), *([OWED] if self._owed else []))

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted or renamed since it was opened: what is written then, no restart finds."""
        if self._database is None:
            return False
        now = _identity_of(self.path)
        return None in now or now != self._identity

    def _put_right(self, database: sqlite3.Connection, changes: Sequence[Change]) -> sqlite3.Connection:
        """The file where it belongs, with all that was saved and changes.

        Raises:
            sqlite3.Error: what it holds can't be read, or not written.
            McrError: it can't be made again, or another file is there.
        """
        held = (*map(Put, rules_of(database)), Keep(kept_in(database)), *changes)
        there, of_former = _identity_of(self.path)[0], self._identity[0]
        if there is None:
            renewed = _made_again(self.path, database, held)
            database.close()  # which leaves files alone that are not its own (SQLITE_FCNTL_HAS_MOVED)
        elif there == of_former:
            _renew_log(self.path, database)
            write_all(database, changes)
            renewed = database
        else:
            raise another_file(self.path)
        log.warning("%s was deleted or renamed: mcrd has made it again, with all rules that were saved", self.path)
        self._identity = _identity_of(self.path)
        return renewed

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
        fault, failed = self._trouble, self._failed
        trouble = "; ".join(filter(None, (fault.message if fault else "", OWED if self._owed else "")))
        number = fault.errno if isinstance(fault, SystemFault) else 0
        ago = None if failed is None else time.monotonic() - failed
        return Saving(str(self.path), trouble, self.is_gone, number, ago)

    def close(self) -> None:
        """Close the file. What was written is on the disk already; what is owed may be now."""
        if self._owed:
            with suppress(McrError):
                self.write(())
        if self._database is not None:
            self._database.close()


def _kept_after(changes: Sequence[Change], before: str) -> str:
    return next((each.text for each in reversed(changes) if isinstance(each, Keep)), before)


def _target(path: Path) -> Path:
    """Where SQLite writes: what a symbolic link leads to. Its log is beside that."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _identity_of(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Which files these are: device and inode of each that SQLite writes to; None: there is none."""
    target = _target(path)
    return tuple(_inode_of(f"{target}{suffix}") for suffix in _WRITTEN)


def _inode_of(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_directory(directory: Path) -> None:
    try:
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        status = directory.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "")
    except OSError as error:
        raise unusable(directory, errno_of(error)) from None
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if others or status.st_uid not in {0, os.geteuid()}:
        raise McrError(
            f"Others may write in the state directory {directory}",
            f"who can write there can change the rules: chown it to mcrd's user, and chmod go-w {directory}",
        )


def _made_again(path: Path, former: sqlite3.Connection, held: Sequence[Change]) -> sqlite3.Connection:
    """A new file where there is none, with what the former one held. No other's file is written, moved or removed.

    Raises:
        McrError: it can't be made, or somebody else makes one.
    """
    if path.is_symlink():
        raise link_to_nothing(path)
    try:
        _make_directory(path.parent)
        if Path(f"{path}-wal").exists():
            empty_log(former)  # a renamed file lacks what is in it, and SQLite deletes it now
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return _filled(path, held)
    except ForeignFile:
        raise another_file(path) from None
    except (sqlite3.Error, OSError, SystemFault) as error:
        if _is_anothers(error):
            raise another_file(path) from None
        number = error.errno if isinstance(error, SystemFault) else _errno(error)
        raise not_made_again(path, number) from None


def _refuse_rules(database: sqlite3.Connection) -> None:
    if next(rules_of(database), None):
        raise FileExistsError(errno.EEXIST, "another mcrd has written rules to it")


def _is_anothers(error: BaseException) -> bool:
    """Whether an error says that another daemon has the file, or has written to it."""
    is_locked = isinstance(error, sqlite3.Error) and _errno(error) == errno.EBUSY
    return is_locked or isinstance(error, FileExistsError | ForeignFile)


def _filled(path: Path, held: Sequence[Change]) -> sqlite3.Connection:
    """A file that was just made, with this in it. It is removed if that can't be, unless another daemon has it."""
    made = _inode_of(str(path))
    database: sqlite3.Connection | None = None
    try:
        database = _connect(path)
        prepare(database)
        _refuse_rules(database)
        write_all(database, held)
    except BaseException as error:
        if not _is_anothers(error) and _inode_of(str(path)) == made:  # while it is locked
            for suffix in (*_COMPANIONS, ""):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        if database is not None:
            database.close()
        raise
    return database


def _renew_log(path: Path, database: sqlite3.Connection) -> None:
    """Another write-ahead log for a file whose own was deleted. The file stays locked, and whole at each moment."""
    empty_log(database)
    name = Path(f"{_target(path)}-wal")
    try:
        name.unlink(missing_ok=True)  # or SQLite would take what is in it for changes of this file
    except OSError as error:
        raise not_made_again(name, _errno(error)) from None
    reopen_log(database)


def _connect(path: Path) -> sqlite3.Connection:
    with suppress(OSError):  # which SQLite tells better
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))  # SQLite would let everybody read it
    return sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False)


def _open_or_renew(path: Path) -> tuple[sqlite3.Connection, tuple[Rule, ...], list[str]]:
    """A file that can be used, the rules in it, and what to tell of the one that could not.

    Raises:
        sqlite3.Error, OSError: the disk or another daemon is in the way.
    """
    try:
        return *_opened(path), []
    except ForeignFile as error:
        aside = _set_aside(path)
        return *_opened(path), [f"{path} {error}: it is {aside} now, and mcrd starts without the rules in it"]
    except sqlite3.DatabaseError as error:
        if error_name(error) not in _DAMAGED:
            raise
        saved = _salvage(path)
        aside = _set_aside(path)
        renewed = _renewed(path, aside, (*map(Put, saved.rules), Keep(saved.kept)))
        return (
            renewed,
            saved.rules,
            [f"{path} is damaged ({error}): it is {aside} now; {len(saved.rules)} rules could be read and are kept"],
        )


def _renewed(path: Path, aside: Path, held: Sequence[Change]) -> sqlite3.Connection:
    """A new file with what the one held that was set aside; that is where it was if there is no room for both."""
    with ExitStack() as undo:
        undo.callback(_move, aside, path)
        database, _ = _opened(path)
        undo.callback(database.close)
        write_all(database, held)
        undo.pop_all()
    return database


def _opened(path: Path) -> tuple[sqlite3.Connection, tuple[Rule, ...]]:
    database = _connect(path)
    try:
        prepare(database)
        return database, checked_rules(database)
    except BaseException:
        database.close()
        raise


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
                for rule in readable_rules(database):
                    if isinstance(rule, Rule):
                        saved[rule.rule_id] = rule
                    else:
                        fault = rule
                with suppress(sqlite3.Error):  # a file of before has no such table
                    kept = kept_in(database)
    except (sqlite3.Error, OSError, ForeignFile) as error:
        fault = str(error)
    return _Salvaged(tuple(saved.values()), kept, fault)


def files_set_aside(path: str) -> list[str]:
    """Files that were set aside in favour of this one, oldest first, and that are still there."""
    if not path:
        return []
    target = _target(Path(path))
    found = map(str, target.parent.glob(f"{target.name}{_ASIDE}*"))
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


def _errno(error: sqlite3.Error | OSError) -> int:
    if isinstance(error, OSError):
        return errno_of(error)
    return _ERRNOS.get(error_name(error), errno.EIO)
