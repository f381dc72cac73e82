"""Judges how long ago an output's newest error was: an old one is shown, but no longer advice. Pure."""

from typing import Final

from mcr.errors import describe_errno
from mcr.model.stats import OutputStats

_LATELY: Final = 600.0  # seconds after the newest error until errors count as over


def is_lately(output: OutputStats) -> bool:
    """Whether its newest error is so recent that something may be wrong still."""
    return output.last_error is not None and output.last_error.ago <= _LATELY


def newest_error(outputs: list[OutputStats]) -> str:
    """The newest error of outputs that have the same, with its time, as the end of a sentence; empty: not known."""
    errors = [each.last_error for each in outputs if each.last_error]
    if not errors:
        return ""
    newest = min(errors, key=lambda error: error.ago)
    return f"; the newest error, {newest.ago:,.0f} s ago: {describe_errno(newest.errno)}"


def last_errno(output: OutputStats) -> int | None:
    """The number of its newest error; None: no send failed."""
    return output.last_error.errno if output.last_error else None
