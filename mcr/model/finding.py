"""Findings about the machine, the daemon or a rule: one line each, with evidence and remedy."""

import enum

import attrs


class Verdict(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    ADVICE = "advice"
    """It works, but something would make it better or safer."""
    FAULT = "fault"
    """It cannot work like this."""


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        check: a name that scripts can rely on, such as ``interface_up``.
        what: what was found, one line without a trailing period.
        evidence: where to see it: the file, counter or command, and what it said.
        remedy: what to do, a command where there is one; empty if nothing needs doing.
    """

    check: str
    verdict: Verdict
    what: str
    evidence: str
    remedy: str = ""
