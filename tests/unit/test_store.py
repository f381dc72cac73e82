"""The rules on disk: what was written is there again, and a file that can't be used is never lost."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import attrs
import pytest

from mcr.errors import McrError, SystemFault
from mcr.rules import rule_table, store
from mcr.rules.disk import free_bytes
from mcr.rules.rule_table import Drop, Keep, Put
from mcr.rules.store import FILE, RuleFile, files_set_aside
from saved_files import aside, read, refuse_as_full, refuse_as_read_only, rule, written


def test_rules_are_there_again_in_their_order(tmp_path: Path) -> None:
    rules = [rule(3, "news"), rule(1), rule(2, "sport")]
    written(tmp_path, *map(Put, rules))
    written(tmp_path, Put(rule(0)), Drop("rule-1"))
    assert read(tmp_path) == (rules[0], rules[2], rule(0))


def test_a_changed_rule_keeps_its_place(tmp_path: Path) -> None:
    written(tmp_path, Put(rule(1)), Put(rule(2)))
    changed = attrs.evolve(rule(1), name="new", outputs=rule(7).outputs)
    written(tmp_path, Put(changed))
    assert read(tmp_path) == (changed, rule(2))


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    written(tmp_path / "mcr")
    assert (tmp_path / "mcr").stat().st_mode & 0o777 == 0o700


WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from saved_files import RuleFile, Put, rule
file = RuleFile.open(Path(sys.argv[1]))
for number in range(1000):
    file.write([Put(rule(number)), Put(rule(1000 + number))])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_a_kill_and_nothing_is_half(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        for line in writer.stdout:
            if int(line) == 20:
                writer.kill()
                break
        acknowledged = [20, *map(int, writer.stdout)]
    ids = {each.rule_id for each in read(tmp_path)}
    assert ids >= {f"rule-{number}" for number in range(acknowledged[-1] + 1)}
    assert ids == {f"rule-{number + half}" for number in range(len(ids) // 2) for half in (0, 1000)}


# Files that can't be used.


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("my notes, which nobody may lose" * 100)
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == ()
        (notice,) = file.notices
        (name,) = aside(tmp_path)
        assert files_set_aside(str(file.path)) == [str(tmp_path / name)]
        assert free_bytes(str(file.path))
        assert free_bytes("/nonexistent/rules.sqlite") is None
        assert name in notice
        assert "is damaged" in notice
        file.write([Put(rule(1))])
    assert (tmp_path / name).read_text().startswith("my notes")
    assert read(tmp_path) == (rule(1),)


def test_another_programs_database_is_set_aside(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("CREATE TABLE rules (song TEXT)")
    with closing(RuleFile.open(tmp_path)) as file:
        assert "is another program's" in file.notices[0]
    (name,) = aside(tmp_path)
    with closing(sqlite3.connect(tmp_path / name)) as database:
        assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("rules",)]


def test_what_a_newer_mcrd_wrote_is_set_aside(tmp_path: Path) -> None:
    written(tmp_path, Put(rule(1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("PRAGMA user_version=99")
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == ()
        assert "newer mcrd" in file.notices[0]


@pytest.mark.parametrize(
    ("narrower", "version"),
    [({}, 1), ({"vlan": 7}, 2), ({"sources": (IPv4Address("198.18.0.1"),)}, 2), ({"vlan": 7, "last_port": 5009}, 3)],
    ids=str,
)
def test_a_rule_that_an_older_mcrd_would_take_for_another_is_not_for_it(
    tmp_path: Path, narrower: dict[str, Any], version: int
) -> None:
    """It takes a file of version 1, and does not know what makes an input narrower, or wider."""
    narrow = attrs.evolve(rule(1), input=attrs.evolve(rule(1).input, **narrower))
    written(tmp_path, Put(narrow), Put(rule(2)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (version,)
    assert read(tmp_path) == (narrow, rule(2))


def test_what_can_be_read_of_a_damaged_file_is_kept(tmp_path: Path) -> None:
    written(tmp_path, *(Put(rule(number)) for number in range(500)))
    path = tmp_path / FILE
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(5000))
    with closing(RuleFile.open(tmp_path)) as file:
        kept = file.rules
        assert f"{len(kept)} rules could be read and are kept" in file.notices[0]
    assert 0 < len(kept) < 500
    assert set(kept) < {rule(number) for number in range(500)}
    assert read(tmp_path) == kept


@pytest.mark.parametrize(
    "edit",
    [
        "json_remove(rule, '$.input')",
        "json_set(rule, '$.input.interface', 5)",
        "json_set(rule, '$.name', 5)",
        "json_set(rule, '$.outputs[0].port', '5')",
        "json_set(rule, '$.outputs', 'none')",
        "'not JSON'",
    ],
)
def test_a_row_that_is_no_rule_costs_only_itself(tmp_path: Path, edit: str) -> None:
    written(tmp_path, Put(rule(1)), Put(rule(2)), Put(rule(3)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute(f"UPDATE rules SET rule = {edit} WHERE rule_id = 'rule-2'")  # noqa: S608
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == (rule(1), rule(3))
        assert "2 rules could be read" in file.notices[0]


def test_a_damaged_file_stays_where_it_is_while_there_is_no_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be read of it is used, and is kept once there is room."""
    written(tmp_path, Put(rule(1)), Put(rule(2)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("UPDATE rules SET rule = '{}' WHERE rule_id = 'rule-2'")
    with monkeypatch.context() as full:
        full.setattr(rule_table, "_write_one", refuse_as_full)
        with closing(RuleFile.open(tmp_path)) as file:
            assert file.rules == (rule(1),)
            assert "No space left on device" in file.notices[0]
            assert "mcrd starts with 1 rules of it" in file.notices[1]
    assert aside(tmp_path) == []
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == (rule(1),)
        assert "1 rules could be read and are kept" in file.notices[0]


@pytest.mark.parametrize("statement", ["PRAGMA user_version=99", "PRAGMA application_id=7"])
def test_another_programs_file_on_a_disk_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    written(tmp_path, Put(rule(1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute(statement)
    monkeypatch.setattr(Path, "rename", refuse_as_read_only)
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == ()
        assert "Read-only file system" in file.notices[0]
        assert "mcrd starts with 0 rules of it" in file.notices[1]


def test_rules_that_cannot_be_read_nor_set_aside_are_missed_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written anywhere: there is no place for a copy, either."""
    written(tmp_path, Put(rule(1)))
    (tmp_path / FILE).write_bytes(b"x" * 10_000)
    monkeypatch.setattr(Path, "rename", refuse_as_read_only)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse_as_read_only)
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.rules == ()
        assert "mcrd starts with 0 rules of it" in file.notices[1]


# Disks and neighbours that are in the way.


def test_a_full_disk_refuses_the_change_and_keeps_what_is_there(tmp_path: Path) -> None:
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        assert file._database
        file._database.execute("PRAGMA max_page_count=1")
        with pytest.raises(SystemFault, match=r"can't be saved in .*: No space left on device \(os error 28\)"):
            file.write([Put(rule(number)) for number in range(1000)])
        file._database.execute("PRAGMA max_page_count=100000")
        file.write([Put(rule(2))])
    assert read(tmp_path) == (rule(1), rule(2))


def test_two_daemons_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcr.rules.store._LOCK_SECONDS", 0.01)
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        with pytest.raises(McrError, match="Another mcrd uses the state directory"):
            RuleFile.open(tmp_path)
    assert read(tmp_path) == (rule(1),)


def test_where_others_may_write_nothing_is_believed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(McrError, match="Others may write"):
        RuleFile.open(tmp_path)


def test_a_directory_that_can_t_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match=r"State directory .*: No such file or directory \(os error 2\)"):
        RuleFile.open(tmp_path / "no" / "such")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFault, match=r"Not a directory"):
        RuleFile.open(tmp_path / "file")


def test_a_file_that_others_own_is_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not read the rules is told so, and does not start without them."""
    written(tmp_path, Put(rule(1)))

    def refuse(path: Path) -> sqlite3.Connection:
        raise _cannot_open(path)

    monkeypatch.setattr(store, "_connect", refuse)
    with pytest.raises(SystemFault, match=r"State directory .*: Permission denied \(os error 13\)"):
        RuleFile.open(tmp_path)


def _cannot_open(path: Path) -> sqlite3.OperationalError:
    """What SQLite raises for a path that it can't open."""
    with pytest.raises(sqlite3.OperationalError) as raised:
        sqlite3.connect(f"file:{path}/nothing?mode=ro", uri=True).execute("SELECT 1")
    return raised.value


def test_a_text_is_kept_beside_the_rules(tmp_path: Path) -> None:
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.kept == ""
        file.write([Keep("one"), Put(rule(1)), Keep("two")])
        assert file.kept == "two"
    with closing(RuleFile.open(tmp_path)) as file:
        assert (file.kept, file.rules) == ("two", (rule(1),))
        file.write([Keep("")])
    with closing(RuleFile.open(tmp_path)) as file:
        assert file.kept == ""


def test_a_file_of_before_is_used(tmp_path: Path) -> None:
    written(tmp_path, Put(rule(1)))
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("DROP TABLE kept")
        database.commit()
    with closing(RuleFile.open(tmp_path)) as file:
        assert (file.rules, file.kept, file.notices) == ((rule(1),), "", [])
