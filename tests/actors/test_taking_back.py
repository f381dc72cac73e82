"""What the configuration files say is taken back unless somebody confirms it."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from mcr.actors.config_files import ConfigFiles
from mcr.config.file import ConfigurationPaths
from mcr.errors import LimitReached, McrError, NothingToConfirm, SystemFault, UnconfirmedApply
from mcr.model.finding import Verdict
from mcr.model.rule import Origin, OutputView, RuleState, RuleView
from mcr.rules.trial import Moment, kept_trial
from stated_rules import RULE, Rules

A, B, C = (RULE.format(name=name, port=port) for port, name in enumerate("abc", 1))
MockClock = trio.testing.MockClock


class Clock:
    """Goes as the clock of the test does."""

    def __init__(self) -> None:
        self.set_by = 0.0

    def __call__(self) -> Moment:
        return Moment(1_767_225_600 + trio.current_time() + self.set_by, trio.current_time(), "this")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mcr.toml"
    path.write_text(A)
    return path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(path: Path, rules: Rules, clock: Clock, nursery: trio.Nursery) -> ConfigFiles:
    paths = ConfigurationPaths((str(path),))
    files = ConfigFiles(paths, paths.read(), rules, clock=clock)
    nursery.start_soon(files.keep)
    return files


def told(files: ConfigFiles) -> list[tuple[Verdict, str]]:
    return [(each.verdict, each.what) for each in files.findings() if each.check == "config_trial"]


async def pass_by(clock: MockClock, seconds: float) -> None:
    """Let time pass, and what it brings be done, in threads also."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()
    while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
        await trio.to_thread.run_sync(time.sleep, 0.001)
        await trio.testing.wait_all_tasks_blocked()


async def test_what_nobody_confirms_is_taken_back(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path.write_text(B)
    done = await files.apply(confirm=120)
    assert done.trial
    assert (done.trial.state, done.trial.seconds_left) == ("waiting", 120.0)
    await pass_by(mock_clock, 50)
    assert told(files) == [
        (Verdict.ADVICE, "What the configuration files say is taken back in 70 s, at 2026-01-01T00:02:00Z")
    ]
    await pass_by(mock_clock, 69)
    assert rules.used == [["b"]]
    await pass_by(mock_clock, 2)
    assert rules.used == [["b"], ["a"]]
    ((verdict, what),) = told(files)
    assert (verdict, what[:54]) == (Verdict.FAULT, "mcrd does not go by its configuration files: nobody co")
    assert path.read_text() == B
    diff = await files.apply(dry_run=True)
    assert diff.trial
    assert ([each.change for each in diff.differences], diff.trial.state) == (["removed", "added"], "taken_back")
    assert "so mcrd goes by what they said before 2026-01-01T00:00:00Z again" in caplog.messages[-1]
    kept = kept_trial(rules.kept)
    assert kept
    assert kept.taken_back
    with pytest.raises(NothingToConfirm, match="the last one was taken back at 2026-01-01T00:02:00Z"):
        await files.confirm()


async def test_what_is_confirmed_stays(files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock) -> None:
    with pytest.raises(NothingToConfirm):
        await files.confirm()
    path.write_text(B)
    await files.apply(confirm=120)
    await pass_by(mock_clock, 119)
    await files.confirm()
    assert (rules.kept, told(files)) == ("", [])
    await pass_by(mock_clock, 1000)
    assert rules.used == [["b"], ["b"]]
    with pytest.raises(NothingToConfirm):
        await files.confirm()


async def test_a_second_apply_while_one_waits(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    await pass_by(mock_clock, 90)
    path.write_text(C)
    with pytest.raises(UnconfirmedApply):
        await files.apply()
    assert rules.used == [["b"]]
    await files.apply(confirm=100)
    await pass_by(mock_clock, 90)
    assert rules.used == [["b"], ["c"]]
    await pass_by(mock_clock, 11)
    assert rules.used == [["b"], ["c"], ["a"]]


async def test_files_that_are_changed_back_end_the_wait(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    path.write_text(A)
    await files.apply()
    assert (rules.used, rules.kept, told(files)) == ([["b"], ["a"]], "", [])
    await pass_by(mock_clock, 1000)
    assert rules.used == [["b"], ["a"]]


async def test_a_signal_confirms_nothing(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    await files.reload()
    assert "not used: An apply waits for confirmation, for another 100 s" in caplog.messages[-1]
    await pass_by(mock_clock, 101)
    await files.reload()
    assert "are not used: Nobody has confirmed what the configuration files say" in caplog.messages[-1]
    with pytest.raises(UnconfirmedApply):
        await files.apply(reload=True)
    assert rules.used == [["b"], ["a"]]
    path.write_text(C)
    await files.reload()
    assert (rules.used[2:], told(files)) == ([["c"]], [])


async def test_what_was_taken_back_can_be_applied_again(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    await pass_by(mock_clock, 101)
    await files.apply()
    assert (rules.used, rules.kept, told(files)) == ([["b"], ["a"], ["b"]], "", [])


async def test_nothing_waits_where_nothing_differs(files: ConfigFiles, rules: Rules) -> None:
    done = await files.apply(confirm=100)
    assert (done.trial, rules.kept) == (None, "")


async def test_a_fault_while_one_waits_changes_nothing(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    path.write_text("[[rule]]")
    assert (await files.apply(confirm=100)).faults
    await pass_by(mock_clock, 101)
    assert rules.used == [["b"], ["a"]]


async def test_the_clock_of_the_day_may_be_set(
    files: ConfigFiles, path: Path, rules: Rules, clock: Clock, mock_clock: MockClock
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    clock.set_by = 10_000.0
    await pass_by(mock_clock, 90)
    assert rules.used == [["b"]]
    clock.set_by = -10_000.0
    await pass_by(mock_clock, 11)
    assert rules.used == [["b"], ["a"]]


async def test_an_apply_that_fails_waits_for_nothing(files: ConfigFiles, path: Path, rules: Rules) -> None:
    path.write_text(B)
    rules.error = LimitReached("no room")
    with pytest.raises(LimitReached):
        await files.apply(confirm=100)
    assert told(files) == []


async def test_what_cannot_be_taken_back_is_tried_again(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(B)
    await files.apply(confirm=100)
    rules.error = LimitReached("no room")
    await pass_by(mock_clock, 101)
    assert caplog.messages[-1] == "what nobody has confirmed cannot be taken back yet: no room"
    rules.error = None
    await pass_by(mock_clock, 6)
    assert rules.used == [["b"], ["a"]]


async def test_a_full_disk_keeps_nothing_in_force(
    files: ConfigFiles, path: Path, rules: Rules, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one on which the text could not be written again at the start either, so that it has another trial's."""
    path.write_text(B)
    await files.apply(confirm=100)
    use = rules.use

    async def refuse(given: tuple, kept: str | None = "") -> None:  # type: ignore[type-arg]
        if kept is not None:
            raise SystemFault("Rules can't be saved", 28)
        await use(given, kept)

    monkeypatch.setattr(rules, "use", refuse)
    await pass_by(mock_clock, 101)
    assert rules.used == [["b"], ["a"]]
    assert told(files)[0][0] is Verdict.FAULT
    with suppress(McrError):
        await files.confirm()
    await pass_by(mock_clock, 100)
    assert rules.used == [["b"], ["a"]]


@pytest.fixture
def views(path: Path) -> Iterator[Callable[[], tuple[RuleView, ...]]]:
    def make(origin: Origin) -> tuple[RuleView, ...]:
        read = ConfigurationPaths((str(path),)).read()
        return tuple(
            RuleView(
                *(each.rule.rule_id, each.rule.name, each.rule.input, tuple(map(OutputView.of, each.rule.outputs))),
                RuleState.ACTIVE,
                origin=origin,
            )
            for each in read.rules
        )

    return partial(make, Origin.FILE)  # type: ignore[return-value]


async def test_rules_on_trial_are_listed_with_a_warning(
    files: ConfigFiles, path: Path, views: Callable[[], tuple[RuleView, ...]], mock_clock: MockClock
) -> None:
    path.write_text(A + B)
    assert files.mark(views()) == views()
    await files.apply(confirm=100)
    await pass_by(mock_clock, 50)
    first, second = files.mark(views())
    assert (first.warnings, second.warnings) == (
        (),
        ("it is taken back at 2026-01-01T00:01:40Z unless it is confirmed: mcrctl confirm",),
    )
    added = attrs.evolve(second, origin=Origin.RUNTIME, warnings=())
    assert files.mark((added,)) == (added,)


async def test_two_at_once_are_one_after_the_other(
    files: ConfigFiles, path: Path, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    use, running = rules.use, []

    async def slow(given: tuple, kept: str | None = "") -> None:  # type: ignore[type-arg]
        running.append("begun")
        await trio.testing.wait_all_tasks_blocked()
        await use(given, kept)
        running.append("done")

    monkeypatch.setattr(rules, "use", slow)
    path.write_text(B)
    async with trio.open_nursery() as clients:
        for _ in range(3):
            clients.start_soon(files.apply)
    assert running == ["begun", "done"] * 3
