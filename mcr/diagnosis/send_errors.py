"""Judges how long ago an output's newest error was: an old one is shown, but no longer advice. Pure."""

from typing import Final

from mcr.model.stats import OutputStats

_LATELY: Final = 600.0  # seconds after the newest error until errors count as over


def is_lately(output: OutputStats) -> bool:
    """Whether its newest error is so recent that something may be wrong still."""
    return output.last_error_ago is not None and output.last_error_ago <= _LATELY


def newest_error(outputs: list[OutputStats]) -> str:
    """The newest error of outputs that have the same, with its time, as the end of a sentence; empty: not known."""
    if not outputs[0].last_error:
        return ""
    ago = min((each.last_error_ago for each in outputs if each.last_error_ago is not None), default=None)
    when = "" if ago is None else f", {ago:,.0f} s ago"
    return f"; the newest error{when}: {outputs[0].last_error}"
