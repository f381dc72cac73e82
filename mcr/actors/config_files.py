"""Owns the configuration files: what they said last, what has been wrong with them since, what of it is on trial."""

import math
from collections.abc import Mapping
from functools import partial
from typing import NoReturn, Protocol

import attrs
import trio

from mcr.config.difference import RuleDifference, RunTimeDifference, difference
from mcr.config.file import Configuration, ConfigurationPaths, FileFault, FileRule
from mcr.config.paths import CONFIGURATION
from mcr.config.table import Source
from mcr.errors import InvalidParams, McrError, NothingToConfirm, UnconfirmedApply
from mcr.logs.asker import asker
from mcr.logs.logger import get_logger
from mcr.logs.standing_reason import StandingReason
from mcr.model.finding import Finding, Verdict
from mcr.model.log import Facility, Level
from mcr.model.rule import Origin, Rule, RuleView
from mcr.model.setting import SettingView
from mcr.rules.change_log import some_of
from mcr.rules.trial import Clock, Moment, Trial, after_apply, this_moment, utc
from mcr.text.plurals import counted

log = get_logger(Facility.RULES)

_NAMED = 20  # faults that the log names
_LOOK_SECONDS = 5.0  # between two looks at the clock, which may be set
_RETRY_SECONDS = 5.0  # until what could not be taken back is tried once more


class Rules(Protocol):
    """Owner of the rules."""

    async def use(self, rules: tuple[FileRule, ...], kept: str | None = "") -> None:
        """Go by these of the files, and keep this text beside the saved ones (None: the same); or change nothing."""

    async def foresee(self, rules: tuple[FileRule, ...]) -> tuple[RunTimeDifference, ...]:
        """What becomes of rules of run time once files have these."""


@attrs.frozen
class TrialView:
    """How a trial stands.

    Attributes:
        state: ``waiting`` for confirmation, or ``taken_back``.
        deadline: when it is taken back, or was.
        seconds_left: until then.
    """

    state: str
    deadline: str
    seconds_left: float


@attrs.frozen
class Application:
    """What became of it when the files were read again.

    Attributes:
        files: that were read.
        faults: of the files; if there are any, nothing is changed.
        differences: between the rules that are in force of the files, and those that they say now.
        restart: settings that differ, which count from the next start.
        trial: of what the files say, or said; None: there is none.
        warnings: of the files: what may be a mistake.
        run_time: what becomes of rules that were added at run time.
    """

    files: tuple[str, ...] = ()
    faults: tuple[FileFault, ...] = ()
    differences: tuple[RuleDifference, ...] = ()
    restart: tuple[str, ...] = ()
    trial: TrialView | None = None
    warnings: tuple[str, ...] = ()
    run_time: tuple[RunTimeDifference, ...] = ()


class ConfigFiles:
    """The files of one daemon."""

    def __init__(
        self,
        paths: ConfigurationPaths,
        configuration: Configuration,
        rules: Rules,
        trial: Trial | None = None,
        clock: Clock = this_moment,
    ) -> None:
        """Take what is in force.

        Args:
            paths: of the files.
            configuration: its settings are those of the start, to compare with; its rules those in force.
            rules: their owner.
            trial: of these rules, or the one that was taken back.
            clock: tells the time.
        """
        self._paths = paths
        self._configuration = configuration
        self._rules = rules
        self._trial = trial
        self._clock = clock
        self._turn = trio.Lock()
        self._news = trio.Event()
        self._fault = ""
        self._restart: tuple[str, ...] = ()

    async def apply(self, *, dry_run: bool = False, confirm: int | None = None, reload: bool = False) -> Application:
        """Read the files again, and go by them, all or nothing.

        Args:
            dry_run: only tell what would differ.
            confirm: seconds after which that is taken back unless it is confirmed; None: it needs not be.
            reload: do not use what was taken back.

        Raises:
            UnconfirmedApply: one waits for confirmation, and this one would not; or it was taken back.
            InvalidParams: mcrd was started without any.
            McrError: the rules can't be had; nothing is changed.
        """
        if not (self._paths.paths or reload):
            raise InvalidParams(
                "mcrd reads no configuration files",
                "start it with --config PATH; else it reads those of /etc/mcr, if its control socket is the default",
            )
        async with self._turn:  # who reads later may have read something newer, which must not be undone
            read = await self._read()
            found = await self._compare(read)
            if not dry_run:
                await self._apply(read, found.differences, confirm, reload=reload)
                self._restart = found.restart
            return attrs.evolve(found, trial=_view(self._trial, self._clock()))

    async def _read(self) -> Configuration:
        # A disk that does not answer must not keep mcrd from stopping.
        return await trio.to_thread.run_sync(self._paths.read, self._configuration, abandon_on_cancel=True)

    async def _compare(self, read: Configuration) -> Application:
        if read.faults:
            return Application(read.files, read.faults, warnings=read.warnings)
        differences = await trio.to_thread.run_sync(difference, self._in_force, _rules_of(read))  # of thousands
        run_time = await self._rules.foresee(read.rules) if differences else ()
        restart = _differing(self._configuration.settings, read.settings)
        return Application(read.files, (), differences, restart, warnings=read.warnings, run_time=run_time)

    async def _apply(
        self, read: Configuration, differences: tuple[RuleDifference, ...], confirm: int | None, *, reload: bool
    ) -> None:
        if read.faults:
            self._fault = str(read.faults[0])
            _log_faults(read.faults)
            return
        now = self._clock()
        given = self._trial, self._in_force, _rules_of(read), confirm, now
        before, trial = self._trial, await trio.to_thread.run_sync(partial(after_apply, *given, reload=reload))
        try:
            await self._use(read, differences, trial)
        except InvalidParams:  # the files are not at fault
            raise
        except McrError as error:
            self._fault = error.message
            log.log(Level.ERROR, "the configuration files cannot be used, and nothing is changed: %s", error.message)
            raise
        self._fault = ""
        if trial:
            log.notice("that is taken back at %s unless it is confirmed: mcrctl confirm", trial.deadline(now))
        elif before and before.waits:
            log.notice("the configuration files say again what they said before: nothing waits for confirmation")

    async def _use(self, read: Configuration, differences: tuple[RuleDifference, ...], trial: Trial | None) -> None:
        """Go by this, and keep this of a trial."""
        text = await trio.to_thread.run_sync(trial.text) if trial else ""
        await self._rules.use(read.rules, text)
        self._note(read, differences, trial)

    def _note(self, read: Configuration, differences: tuple[RuleDifference, ...], trial: Trial | None) -> None:
        """Take this for what is in force."""
        # Settings stay those of the start, to compare with.
        self._configuration = attrs.evolve(read, settings=self._configuration.settings)
        self._set(trial)
        _log_differences(differences, none_left=not read.rules)

    def _set(self, trial: Trial | None) -> None:
        self._trial = trial
        self._news.set()
        self._news = trio.Event()

    @property
    def _in_force(self) -> tuple[Rule, ...]:
        return _rules_of(self._configuration)

    def are_there(self) -> bool:
        """Whether there are any, or were."""
        return self._paths.are_there() or bool(self._configuration.files)

    async def reload(self) -> None:
        """Apply the files; what comes of it is logged, and told by `findings`.

        A signal confirms nothing: it also comes when the terminal is closed that mcrd was started from. So what is on
        trial stays so, and what was taken back is not used until the files are changed, or applied by `mcrctl`.
        """
        try:
            done = await self.apply(reload=True)
        except UnconfirmedApply as error:
            log.warning("the configuration files are not used: %s", error.message)
            return
        except McrError:  # the log has it
            return
        for warning in done.warnings:
            log.warning("%s", warning)
        if done.restart:
            log.warning("settings of configuration files that count from the next start: %s", ", ".join(done.restart))

    # A trial.

    async def confirm(self) -> None:
        """Keep what is on trial.

        Raises:
            NothingToConfirm: nothing is.
            SystemFault: that can't be saved, so it is taken back at its time.
        """
        async with self._turn:
            if self._trial is None:
                raise NothingToConfirm("No apply waits for confirmation")
            if self._trial.taken_back:
                raise NothingToConfirm(
                    f"No apply waits for confirmation: the last one was taken back at {self._deadline(self._trial)}",
                    "try again: mcrctl config apply --confirm SECONDS",
                )
            await self._use(self._configuration, (), None)
            log.notice("what the configuration files said is confirmed%s", asker())

    async def keep(self) -> NoReturn:
        """Take back what nobody confirms in time."""
        hindrance = StandingReason()
        while True:
            news, patience = self._news, math.inf
            if self._trial and self._trial.waits:
                left = self._trial.left(self._clock())
                reason = "" if left else await self._take_back()
                if hindrance.is_news(reason):
                    log.log(Level.ERROR, "what nobody has confirmed cannot be taken back yet: %s", reason)
                patience = min(left or _RETRY_SECONDS, _LOOK_SECONDS)
            with trio.move_on_after(patience):
                await news.wait()

    async def _take_back(self) -> str:
        """Go by what the files said before; why that can't be, empty: it is done."""
        async with self._turn:
            trial = self._trial
            if trial is None or trial.taken_back or trial.left(self._clock()):
                return ""
            before = Configuration(self._configuration.files, {}, trial.rules_before)
            taken_back = attrs.evolve(trial, taken_back=True)
            differences = difference(self._in_force, trial.before)
            try:
                await self._use(before, differences, taken_back)
            except McrError:
                try:  # A full disk keeps nothing in force: what is on it tells that the time is over.
                    await self._rules.use(before.rules, None)
                except McrError as error:
                    return error.message
                self._note(before, differences, taken_back)
        log.warning(
            "nobody confirmed what the configuration files say, so mcrd goes by what they said before %s again; the "
            "files stay as they are: mcrctl config diff",
            utc(trial.begun.day),
        )
        return ""

    def _deadline(self, trial: Trial) -> str:
        return trial.deadline(self._clock())

    def mark(self, rules: tuple[RuleView, ...]) -> tuple[RuleView, ...]:
        """The rules, with a warning for each that is on trial."""
        if self._trial is None or self._trial.taken_back:
            return rules
        on_trial = self._trial.differing
        warning = f"it is taken back at {self._deadline(self._trial)} unless it is confirmed: mcrctl confirm"
        return tuple(
            attrs.evolve(each, warnings=(*each.warnings, warning))
            if each.rule_id in on_trial and each.origin is Origin.FILE
            else each
            for each in rules
        )

    def findings(self) -> tuple[Finding, ...]:
        """What doctor should tell of the files."""
        found = []
        if self._fault:
            what = (
                "The configuration files have a fault since they were read again, so mcrd goes by what they said before"
            )
            remedy = "see all of them: mcrctl config check FILE; then: mcrctl config apply"
            found.append(Finding("config_files", Verdict.FAULT, what, self._fault, remedy))
        if self._restart:
            what = f"Settings in the configuration files count from the next start: {', '.join(self._restart)}"
            found.append(Finding("config_settings", Verdict.ADVICE, what, "mcrctl settings", "restart mcrd"))
        found += map(_judge_directory, self._configuration.warnings)
        if self._trial:
            found.append(_judge_trial(self._trial, self._clock()))
        return tuple(found) or (self._files_finding(),)

    def _files_finding(self) -> Finding:
        """Nothing is wrong with them: which they are."""
        files = self._configuration.files
        what = (
            f"mcrd goes by {counted(len(files), 'configuration file')}" if files else "mcrd has no configuration files"
        )
        where = some_of(files) if files else self._looked_for()
        return Finding("config_files", Verdict.OK, what, f"mcrctl settings: --config: {where}")

    def _looked_for(self) -> str:
        return f"none is there: {', '.join(self._paths.paths)}" if self._paths.paths else "none"

    def setting(self) -> SettingView:
        """Which files mcrd reads, as a setting."""
        files = self._configuration.files
        return SettingView(
            "--config",
            ", ".join(self._paths.paths) or "none",
            f"{' and '.join(CONFIGURATION)}, if they are there and the control socket is the default",
            (Source.COMMAND_LINE if self._paths.must_exist and self._paths.paths else Source.DEFAULT).value,
            "configuration files, and directories of them",
            ", ".join(files) if files else self._looked_for(),
        )


def _view(trial: Trial | None, now: Moment) -> TrialView | None:
    if trial is None:
        return None
    if trial.taken_back:
        return TrialView("taken_back", trial.deadline(now), 0.0)
    return TrialView("waiting", trial.deadline(now), round(trial.left(now), 1))


def _judge_directory(warning: str) -> Finding:
    what = "A directory of configuration files has none that is read"
    return Finding("config_directory", Verdict.ADVICE, what, warning, "name them *.toml; then: mcrctl config apply")


def _judge_trial(trial: Trial, now: Moment) -> Finding:
    deadline = trial.deadline(now)
    if trial.taken_back:
        return Finding(
            "config_trial",
            Verdict.FAULT,
            "mcrd does not go by its configuration files: nobody confirmed what they say, so it was taken back at "
            f"{deadline}",
            "what differs: mcrctl config diff",
            "change the files, or try again: mcrctl config apply --confirm SECONDS",
        )
    return Finding(
        "config_trial",
        Verdict.ADVICE,
        f"What the configuration files say is taken back in {trial.left(now):.0f} s, at {deadline}",
        f"it was applied by: mcrctl config apply --confirm {trial.seconds}",
        "keep it: mcrctl confirm",
    )


def _rules_of(configuration: Configuration) -> tuple[Rule, ...]:
    return tuple(each.rule for each in configuration.rules)


def _log_differences(differences: tuple[RuleDifference, ...], *, none_left: bool) -> None:
    """Tell which rules differ. That none is left may be a mistake."""
    parts = []
    for kind in ("added", "removed", "changed"):
        those = [each.rule_id for each in differences if each.change == kind]
        parts.append(f"{len(those)} {kind}{f' ({some_of(those)})' if those else ''}")
    if differences:
        log.log(
            Level.WARNING if none_left else Level.NOTICE,
            "rules of configuration files: %s%s%s",
            *(", ".join(parts), "; none is left" if none_left else "", asker()),
        )


def _log_faults(faults: tuple[FileFault, ...]) -> None:
    for fault in faults[:_NAMED]:
        log.error("%s", fault)
    log.error("%s in the configuration: nothing is changed", counted(len(faults), "fault"))


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in {**before, **now} if before.get(name) != now.get(name))
