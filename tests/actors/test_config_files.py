"""Who owns the configuration files: reads them again, and tells what is wrong with them."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mcr.actors import config_files
from mcr.actors.config_files import ConfigFiles
from mcr.config.difference import RuleDifference, difference
from mcr.config.file import Configuration, ConfigurationPaths
from mcr.errors import InvalidParams, LimitReached
from mcr.model.finding import Verdict
from stated_rules import RULE, Rules

Write = Callable[[str], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mcr.toml"
    path.write_text(RULE.format(name="a", port=1))
    return path


@pytest.fixture
def files(path: Path, rules: Rules) -> ConfigFiles:
    paths = ConfigurationPaths((str(path),))
    return ConfigFiles(paths, paths.read(), rules)


async def test_what_differs_is_told_and_used(files: ConfigFiles, path: Path, rules: Rules) -> None:
    assert (await files.apply()).differences == ()
    path.write_text(RULE.format(name="b", port=1) + RULE.format(name="c", port=2))
    told = (await files.apply(dry_run=True)).differences
    assert [each.change for each in told] == ["changed", "added"]
    assert rules.used == [["a"]]
    assert (await files.apply()).differences == told
    assert rules.used == [["a"], ["b", "c"]]
    assert (await files.apply()).differences == ()


async def test_files_are_compared_beside_the_event_loop(
    files: ConfigFiles, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of rules take a while, for which others would wait."""
    threads: list[threading.Thread] = []

    def compare(*those: Any) -> tuple[RuleDifference, ...]:
        threads.append(threading.current_thread())
        return difference(*those)

    monkeypatch.setattr(config_files, "difference", compare)
    path.write_text(RULE.format(name="b", port=1))
    assert (await files.apply()).differences
    assert threads
    assert threading.main_thread() not in threads


async def test_what_becomes_of_rules_of_run_time_is_told_before(files: ConfigFiles, path: Path) -> None:
    assert (await files.apply(dry_run=True)).run_time == ()  # nothing differs
    path.write_text(RULE.format(name="b", port=1))
    told = (await files.apply(dry_run=True)).run_time
    assert [(each.rule.name, each.change) for each in told] == [("b", "moved")]
    assert (await files.apply()).run_time == told


async def test_a_directory_of_which_nothing_is_read_is_advice(
    tmp_path: Path, rules: Rules, caplog: pytest.LogCaptureFixture
) -> None:
    paths = ConfigurationPaths((str(tmp_path),))
    files = ConfigFiles(paths, paths.read(), rules)
    warning = f"no file in {tmp_path} ends with .toml"
    (finding,) = files.findings()
    assert (finding.verdict, finding.evidence) == (Verdict.ADVICE, warning)
    assert (await files.apply()).warnings == (warning,)
    await files.reload()
    assert caplog.messages == [warning]
    (tmp_path / "a.toml").write_text(RULE.format(name="a", port=1))
    await files.reload()
    assert [each.verdict for each in files.findings()] == [Verdict.OK]


def is_well(files: ConfigFiles) -> bool:
    """Nothing is found but which files there are."""
    (finding,) = files.findings()
    (file,) = files.setting().value.split(", ")
    return finding.verdict is Verdict.OK and finding.evidence == f"mcrctl settings: --config: {file}"


async def test_a_fault_changes_nothing_and_is_found_until_it_is_mended(
    files: ConfigFiles, path: Path, rules: Rules, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("[[rule]]\n")
    assert (await files.apply(dry_run=True)).faults
    assert is_well(files)
    await files.reload()
    (finding,) = files.findings()
    assert finding.evidence == f"{path}:1: a rule lacks input and outputs"
    assert caplog.messages == [finding.evidence, "1 fault in the configuration: nothing is changed"]
    assert rules.used == []
    path.write_text(RULE.format(name="b", port=1))
    await files.reload()
    assert is_well(files)
    assert rules.used == [["b"]]


async def test_rules_that_cannot_be_had_are_found_and_compared_with_those_before(
    files: ConfigFiles, path: Path, rules: Rules
) -> None:
    path.write_text(RULE.format(name="b", port=1))
    rules.error = LimitReached("no room")
    await files.reload()
    assert [each.evidence for each in files.findings()] == ["no room"]
    with pytest.raises(LimitReached):
        await files.apply()
    rules.error = None
    assert [each.change for each in (await files.apply()).differences] == ["changed"]
    assert is_well(files)


async def test_settings_that_differ_from_those_of_the_start_are_told(files: ConfigFiles, path: Path) -> None:
    path.write_text("[settings]\nabsorb = false\n" + RULE.format(name="a", port=1))
    assert (await files.apply()).restart == ("absorb",)
    assert (await files.apply()).restart == ("absorb",)
    assert [each.check for each in files.findings()] == ["config_settings"]
    path.write_text(RULE.format(name="a", port=1))
    await files.reload()
    assert is_well(files)


async def test_the_log_names_the_rules_that_differ_and_warns_if_none_is_left(
    files: ConfigFiles, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = "bcdefgh"
    path.write_text("".join(RULE.format(name=name, port=port) for port, name in enumerate(names, 2)))
    ids = [each.rule_id for each in (await files.apply()).differences if each.change == "added"]
    assert f"7 added ({', '.join(ids[:5])} and 2 more), 1 removed (" in caplog.messages[-1]
    assert caplog.records[-1].levelno < logging.WARNING
    path.write_text("")
    await files.reload()
    assert caplog.messages[-1].startswith("rules of configuration files: 0 added, 7 removed (")
    assert caplog.messages[-1].endswith(" and 2 more), 0 changed; none is left")
    assert caplog.records[-1].levelno == logging.WARNING


async def test_an_mcrd_without_files_says_so_but_can_be_reloaded(rules: Rules) -> None:
    files = ConfigFiles(ConfigurationPaths(), Configuration(), rules)
    for dry_run in (False, True):
        with pytest.raises(InvalidParams, match="mcrd reads no configuration files"):
            await files.apply(dry_run=dry_run)
    assert (await files.apply(reload=True)).files == ()


async def test_a_disk_that_does_not_answer_keeps_nobody_from_stopping(tmp_path: Path, rules: Rules) -> None:
    os.mkfifo(tmp_path / "mcr.toml")
    files = ConfigFiles(ConfigurationPaths((str(tmp_path / "mcr.toml"),)), Configuration(), rules)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.reload)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert rules.used == []
    os.close(os.open(tmp_path / "mcr.toml", os.O_WRONLY))  # the thread ends
