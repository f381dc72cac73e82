"""What is wrong, asked of the daemon: collects what the actors and the kernel know, and has it judged."""

import attrs
import trio

from mcr.actors.rule_store import RuleStore
from mcr.actors.stats_aggregator import StatsAggregator
from mcr.actors.worker_supervisor import WorkerSupervisor
from mcr.diagnosis.doctor import examine
from mcr.diagnosis.why import walk
from mcr.errors import RuleNotFound
from mcr.findings import Finding
from mcr.settings import Settings


@attrs.frozen
class Consultation:
    """Answers `why` and `doctor`. What may wait in the kernel is done in a thread."""

    _rules: RuleStore
    _workers: WorkerSupervisor
    _stats: StatsAggregator
    _settings: Settings

    async def why(self, rule: str) -> tuple[Finding, ...]:
        """Walk a rule from wire to wire.

        Raises:
            RuleNotFound: no rule has this id or name.
        """
        rules = await self._rules.list()
        view = next((each for each in rules if rule in (each.rule_id, each.name)), None)
        if view is None:
            raise RuleNotFound(f"No rule has the id or name {rule!r}", "see the rules: mcrctl list")
        stats = await self._stats.read()
        return await trio.to_thread.run_sync(walk, view, stats)

    async def doctor(self) -> tuple[Finding, ...]:
        """Check the machine and the daemon."""
        workers, stats = await self._workers.describe(), await self._stats.read()
        return await trio.to_thread.run_sync(examine, self._settings, workers, stats)
