"""Checks the machine and the daemon."""

from mcr.findings import Finding
from mcr.model import Stats, WorkerView
from mcr.settings import Settings


def examine(settings: Settings, workers: tuple[WorkerView, ...], stats: Stats) -> tuple[Finding, ...]:
    """Check the machine and the daemon."""
    raise NotImplementedError
