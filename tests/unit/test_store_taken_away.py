"""Files of saved rules that somebody takes away while they are open: what was saved is not lost, nor anybody else's."""

import errno
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mcr.errors import McrError, SystemFault
from mcr.model.saving import Saving
from mcr.rules import rule_table, store
from mcr.rules.rule_table import Drop, Keep, Put
from mcr.rules.store import FILE, RuleFile, files_set_aside
from saved_files import aside, read, refuse_as_full, refuse_as_read_only, rule, written


@pytest.mark.parametrize(
    "taken",
    [
        shutil.rmtree,
        lambda state: state.rename(state.with_name("away")),
        lambda state: (state / FILE).unlink(),
        lambda state: (state / FILE).rename(state / "away"),
        lambda state: (state / f"{FILE}-wal").unlink(),
    ],
    ids=["directory-deleted", "directory-renamed", "deleted", "renamed", "log-deleted"],
)
def test_a_file_that_was_taken_away_is_made_again_with_all_rules(
    tmp_path: Path, taken: Callable[[Path], object]
) -> None:
    state = tmp_path / "mcr"
    file = RuleFile.open(state)
    file.write([Put(rule(1)), Put(rule(2)), Keep("text")])
    assert not file.saving.is_gone
    taken(state)
    assert file.saving.is_gone
    file.write([Put(rule(3)), Drop("rule-1")])
    assert file.saving == Saving(str(state / FILE))
    assert sorted(each.name for each in state.glob(f"{FILE}*")) == [FILE, f"{FILE}-wal"]
    # As it would be found after a power cut: nothing was closed.
    shutil.copytree(state, tmp_path / "copy")
    with closing(RuleFile.open(tmp_path / "copy")) as copy:
        assert (copy.rules, copy.kept) == ((rule(2), rule(3)), "text")
    file.write([Put(rule(4))])
    file.close()
    assert read(state) == (rule(2), rule(3), rule(4))


def test_a_new_file_that_cannot_be_opened_is_not_left_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one would be taken for another daemon's, and every change be refused."""

    def refuse(_: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        (tmp_path / FILE).unlink()
        with monkeypatch.context() as patched:
            patched.setattr(store, "_connect", refuse)
            with pytest.raises(McrError, match="can't be made again"):
                file.write([Put(rule(2))])
        assert not (tmp_path / FILE).exists()
        file.write([Put(rule(3))])
    assert read(tmp_path) == (rule(1), rule(3))


def test_a_change_that_would_go_nowhere_is_refused(tmp_path: Path) -> None:
    """The directory cannot be made again, so nobody is told that it is saved. It is, once that is mended."""
    (tmp_path / "parent").mkdir()
    state = tmp_path / "parent" / "mcr"
    with closing(RuleFile.open(state)) as file:
        file.write([Put(rule(1))])
        shutil.rmtree(tmp_path / "parent")
        for _ in range(2):
            with pytest.raises(SystemFault, match=r"was deleted or renamed, and can't be made again: No such file"):
                file.write([Put(rule(2))])
        assert file.saving.is_gone
        assert "can't be made again" in file.saving.trouble
        assert (file.saving.errno, file.saving.ago is not None) == (errno.ENOENT, True)
        (tmp_path / "parent").mkdir()
        file.write([Put(rule(3))])
        assert file.saving == Saving(str(state / FILE))
    assert read(state) == (rule(1), rule(3))


def test_a_file_that_was_put_in_the_place_of_the_open_one_is_not_overwritten(tmp_path: Path) -> None:
    written(tmp_path / "other", Put(rule(9)))
    with closing(RuleFile.open(tmp_path / "mcr")) as file:
        file.write([Put(rule(1))])
        shutil.rmtree(tmp_path / "mcr")
        (tmp_path / "other").rename(tmp_path / "mcr")
        with pytest.raises(McrError, match="is another file than the one that mcrd has opened"):
            file.write([Put(rule(2))])
    assert read(tmp_path / "mcr") == (rule(9),)


def test_what_another_daemon_made_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds no file, and makes one while the first is about to."""
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        (tmp_path / FILE).unlink()

        def be_quicker(_directory: Path) -> None:
            monkeypatch.undo()
            written(tmp_path, Put(rule(9)))

        monkeypatch.setattr(store, "_make_directory", be_quicker)
        for _ in range(2):
            with pytest.raises(McrError, match="is another file than the one that mcrd has opened"):
                file.write([Put(rule(2))])
        assert file.is_gone
    assert [each.name for each in tmp_path.iterdir()] == [FILE]
    assert read(tmp_path) == (rule(9),)


def test_a_new_file_that_another_daemon_opens_first_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LOCK_SECONDS", 0.01)
    connect, others = store._connect, list[RuleFile]()
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        (tmp_path / FILE).unlink()

        def be_late(path: Path) -> sqlite3.Connection:
            monkeypatch.setattr(store, "_connect", connect)
            others.append(RuleFile.open(tmp_path))
            return connect(path)

        monkeypatch.setattr(store, "_connect", be_late)
        with pytest.raises(McrError, match="is another file than the one that mcrd has opened"):
            file.write([Put(rule(2))])
        (other,) = others
        assert not other.is_gone
        other.write([Put(rule(9))])
        other.close()
    assert read(tmp_path) == (rule(9),)


def test_a_file_that_cannot_be_made_again_leaves_nothing_there_and_the_former_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was renamed without its log, and there is no room for another."""
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        (tmp_path / FILE).rename(tmp_path / "away")
        with monkeypatch.context() as full:
            full.setattr(rule_table, "_write_one", refuse_as_full)
            with pytest.raises(SystemFault, match="can't be made again: No space left") as caught:
                file.write([Put(rule(2))])
        assert caught.value.hints[-1].startswith(f"make room on its disk, and make {tmp_path} again")
        assert [each.name for each in tmp_path.iterdir()] == ["away"]
        (tmp_path / "copy").mkdir(mode=0o700)
        shutil.copyfile(tmp_path / "away", tmp_path / "copy" / FILE)
        assert read(tmp_path / "copy") == (rule(1),)
        file.write([Put(rule(3))])
    assert read(tmp_path) == (rule(1), rule(3))


def test_a_file_that_had_no_name_from_the_start_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon, which had made it, took it away while it was opened."""
    prepare = rule_table.prepare

    def take_away(database: sqlite3.Connection) -> None:
        prepare(database)
        for each in tmp_path.iterdir():
            each.unlink()

    with monkeypatch.context() as other:
        other.setattr(store, "prepare", take_away)
        file = RuleFile.open(tmp_path)
    with closing(file):
        assert file.is_gone
        file.write([Put(rule(1))])
        assert not file.is_gone
    assert read(tmp_path) == (rule(1),)


def test_a_file_whose_log_was_deleted_is_whole_at_each_moment(tmp_path: Path) -> None:
    """A crash between any two steps costs nothing that was acknowledged."""
    state, kept = tmp_path / "mcr", list[Path]()

    def keep(statement: str) -> None:
        if kept or "journal_mode" in statement:  # until then nothing is better than it was
            kept.append(tmp_path / f"copy-{len(kept)}")
            shutil.copytree(state, kept[-1])

    with closing(RuleFile.open(state)) as file:
        file.write([Put(rule(1)), Put(rule(2))])
        (state / f"{FILE}-wal").unlink()
        assert file._database
        # Each statement: what is there before it is what a crash would leave.
        file._database.set_trace_callback(keep)
        file.write([Drop("rule-1")])
        file._database.set_trace_callback(None)
    assert len(kept) >= 5
    assert {read(copy) for copy in kept} <= {(rule(1), rule(2)), (rule(2),)}
    assert read(state) == (rule(2),)


def test_a_log_that_was_put_in_the_place_of_the_open_one_changes_nothing(tmp_path: Path) -> None:
    log, old = tmp_path / f"{FILE}-wal", tmp_path / "old"
    with closing(RuleFile.open(tmp_path)) as file:
        file.write([Put(rule(1))])
        shutil.copyfile(log, old)
        file.write([Put(rule(2))])
        old.rename(log)
        file.write([Put(rule(3))])
    assert read(tmp_path) == (rule(1), rule(2), rule(3))


def linked(directory: Path) -> tuple[Path, Path]:
    """A state directory whose file is a link to another directory, and what it leads to."""
    state, target = directory / "mcr", directory / "persist" / "mcr.sqlite"
    for each in (state, target.parent):
        each.mkdir(mode=0o700)
    (state / FILE).symlink_to(target)
    return state, target


def test_no_file_is_made_in_the_place_of_a_link(tmp_path: Path) -> None:
    state, target = linked(tmp_path)
    with closing(RuleFile.open(state)) as file:
        file.write([Put(rule(1))])
        target.unlink()
        assert file.is_gone
        with pytest.raises(McrError, match="is a symbolic link, and the file that it leads to was deleted") as refused:
            file.write([Put(rule(2))])
        assert refused.value.hints[-1].startswith("remove the link")
        assert (state / FILE).is_symlink()
        assert not target.exists()
        (state / FILE).unlink()
        file.write([Put(rule(3))])
    assert read(state) == (rule(1), rule(3))


def test_the_log_beside_what_a_link_leads_to_is_missed(tmp_path: Path) -> None:
    state, target = linked(tmp_path)
    with closing(RuleFile.open(state)) as file:
        file.write([Put(rule(1))])
        assert not file.is_gone
        target.with_name(f"{target.name}-wal").unlink()
        assert file.is_gone
        file.write([Put(rule(2))])
        assert not file.is_gone
        shutil.copytree(target.parent, tmp_path / "copy")
    (tmp_path / "copy" / target.name).rename(tmp_path / "copy" / FILE)
    (tmp_path / "copy" / f"{target.name}-wal").rename(tmp_path / "copy" / f"{FILE}-wal")
    assert read(tmp_path / "copy") == (rule(1), rule(2))


def test_what_a_link_leads_to_is_set_aside_there(tmp_path: Path) -> None:
    state, target = linked(tmp_path)
    target.write_text("my notes, which nobody may lose" * 100)
    with closing(RuleFile.open(state)) as file:
        assert "is damaged" in file.notices[0]
        (name,) = aside(target.parent)
        assert files_set_aside(str(file.path)) == [str(target.with_name(name))]
    assert (state / FILE).is_symlink()
    assert target.with_name(name).read_text().startswith("my notes")


def test_a_directory_that_was_deleted_under_the_service_is_made_by_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the only one in which the unit lets it write."""
    state = tmp_path / "mcr"
    with closing(RuleFile.open(state)) as file:
        file.write([Put(rule(1))])
        shutil.rmtree(state)
        monkeypatch.setattr(Path, "mkdir", refuse_as_read_only)
        with pytest.raises(SystemFault, match="can't be made again: Read-only file system") as refused:
            file.write([Put(rule(2))])
    assert "systemctl restart mcrd" in refused.value.hints[-1]
    assert "for mcrd's user alone" not in refused.value.hints[-1]
