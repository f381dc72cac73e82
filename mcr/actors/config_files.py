"""Owns the configuration files: what they said last, and what has been wrong with them since."""

from collections.abc import Mapping
from typing import Protocol

import attrs
import trio

from mcr.config.difference import RuleDifference, difference
from mcr.config.file import Configuration, ConfigurationPaths, FileFault, FileRule
from mcr.errors import McrError
from mcr.logs.logger import get_logger
from mcr.model.finding import Finding, Verdict
from mcr.model.log import Facility, Level
from mcr.text.plurals import counted

log = get_logger(Facility.RULES)

_NAMED = 20  # faults that the log names


class Rules(Protocol):
    """Owner of the rules."""

    async def use(self, rules: tuple[FileRule, ...]) -> None:
        """Go by these of the files, or change nothing."""


@attrs.frozen
class Application:
    """What became of it when the files were read again.

    Attributes:
        files: that were read.
        faults: of the files; if there are any, nothing is changed.
        differences: between the rules that the files had said before, and those that they say now.
        restart: settings that differ, which count from the next start.
    """

    files: tuple[str, ...] = ()
    faults: tuple[FileFault, ...] = ()
    differences: tuple[RuleDifference, ...] = ()
    restart: tuple[str, ...] = ()


class ConfigFiles:
    """The files of one daemon."""

    def __init__(self, paths: ConfigurationPaths, configuration: Configuration, rules: Rules) -> None:
        self._paths = paths
        self._configuration = configuration
        self._rules = rules
        self._turn = trio.Lock()
        self._fault = ""
        self._restart: tuple[str, ...] = ()

    async def apply(self, *, dry_run: bool = False) -> Application:
        """Read the files again, and go by them, all or nothing. `dry_run`: only tell what would differ.

        Raises:
            McrError: the rules can't be had; nothing is changed.
        """
        async with self._turn:  # who reads later may have read something newer, which must not be undone
            said = self._configuration
            # A disk that does not answer must not keep mcrd from stopping.
            read = await trio.to_thread.run_sync(self._paths.read, said, abandon_on_cancel=True)
            differences = difference((each.rule for each in said.rules), (each.rule for each in read.rules))
            restart = _differing(said.settings, read.settings)
            if read.faults:
                differences, restart = (), ()
            if not dry_run:
                await self._use(read)
                self._restart = restart
            return Application(read.files, read.faults, differences, restart)

    async def _use(self, read: Configuration) -> None:
        if read.faults:
            self._fault = str(read.faults[0])
            _log_faults(read.faults)
            return
        try:
            await self._rules.use(read.rules)
        except McrError as error:
            self._fault = error.message
            log.log(Level.ERROR, "the configuration files cannot be used, and nothing is changed: %s", error.message)
            raise
        self._fault = ""
        # Settings stay those of the start, to compare with.
        self._configuration = attrs.evolve(read, settings=self._configuration.settings)

    def are_there(self) -> bool:
        """Whether there are any, or were."""
        return self._paths.are_there() or bool(self._configuration.files)

    async def reload(self) -> None:
        """Apply the files; what comes of it is logged, and told by `findings`."""
        try:
            done = await self.apply()
        except McrError:
            return
        if done.restart:
            log.warning("settings of configuration files that count from the next start: %s", ", ".join(done.restart))

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
        return tuple(found)


def _log_faults(faults: tuple[FileFault, ...]) -> None:
    for fault in faults[:_NAMED]:
        log.error("%s", fault)
    log.error("%s in the configuration: nothing is changed", counted(len(faults), "fault"))


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in {**before, **now} if before.get(name) != now.get(name))
